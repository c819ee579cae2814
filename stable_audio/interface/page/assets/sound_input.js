// The sound to start from, to make anew in parts, or to let go on.

import { values } from './api.js';
import { button, get, make, numberOf, option } from './dom.js';
import { soundPicker } from './picker.js';
import { Wave } from './wave.js';

const USES = {
  start: 'start from it: the clip resembles it',
  parts: 'make marked parts anew, keep the rest',
  extend: 'let it go on',
};

/** What a request does with a sound: [kind, its id], or null. */
export function useOf(request) {
  if (request.init_audio) return ['start', request.init_audio];
  return request.inpaint_audio ? [request.extend ? 'extend' : 'parts', request.inpaint_audio] : null;
}

/** Keys of a request that the panel says. */
export function ofSound(request) {
  const keys = { start: ['init_audio', 'init_noise_level'], parts: ['inpaint_audio', 'inpaint'], extend: ['inpaint_audio', 'extend'] };
  return keys[useOf(request)?.[0]] || [];
}

/** Parts as pairs of seconds, from pairs or from a text such as "1.5:2.25,4:". */
function pairs(inpaint) {
  if (typeof inpaint !== 'string') return inpaint ?? null;
  return inpaint.split(',').map(part => part.split(':')).map(([a, b]) => [Number(a), b ? Number(b) : Infinity]);
}

/** The panel; `change` is called when what it asks for changes, `listen(sound, seconds)` to hear the sound. */
export function soundInput(place, change, listen) {
  const use = make('select', { id: 'use' }, ...Object.entries(USES).map(([value, text]) => option(value, text)));
  const level = make('input', { type: 'range', id: 'level', min: 0.01, max: 1, step: 0.01, value: 0.7 });
  const levelText = make('output', { textContent: '0.7' });
  const more = make('input', { type: 'number', id: 'extend', min: 0.01, step: 'any', value: 4, inputMode: 'decimal' });
  const wave = new Wave('Waveform of the sound', { marked: parts => { list(parts); change(); } });
  const rows = make('div', { className: 'parts' });
  const told = make('p', { className: 'hint', id: 'use-help' });
  const mark = button('Begin a part here', () => { wave.mark(); name(); });
  const hear = button('▶ Listen', () => listen(picker.sound, wave.cursor), { title: 'from the cursor' });
  const picker = soundPicker('Sound to work on', sound => show(sound));
  const levelRow = make('div', { className: 'field', data: { name: 'init_noise_level' } },
    make('label', { htmlFor: 'level', textContent: 'How far from it' }), make('span', { className: 'range' }, level, levelText));
  const extendRow = make('div', { className: 'field', data: { name: 'extend' } }, make('label', { htmlFor: 'extend', textContent: 'Seconds more' }), more);
  const body = make('div', { className: 'edit', hidden: true },
    make('div', { className: 'field wide' }, make('label', { htmlFor: 'use', textContent: 'What to do with it' }), use),
    wave.canvas, make('div', { className: 'line' }, hear, mark), told, rows, make('div', { className: 'line' }, levelRow, extendRow));
  const field = make('div', { className: 'field wide', data: { name: 'sound' } }, picker.element, body);
  place.replaceChildren(field);

  const HINTS = {
    start: 'Small values keep nearly all of it, 1 keeps nothing.',
    parts: 'Drag over the waveform, or use the keys: ← → move, Enter begins and ends a part, Delete removes it. What is not marked returns sample for sample.',
    extend: 'The clip begins with the sound and goes on behind it.',
  };
  function name() { mark.textContent = wave.begun === null ? 'Begin a part here' : 'End the part here'; }
  function lay() {
    levelRow.hidden = use.value !== 'start';
    extendRow.hidden = use.value !== 'extend';
    rows.hidden = mark.hidden = use.value !== 'parts';
    told.textContent = HINTS[use.value];
    wave.setParts(use.value === 'parts' ? readParts() : []);
    const sound = picker.sound;
    get('sound-summary').textContent = sound ? `${sound.title}: ${use.value === 'start' ? 'start from it' : use.value === 'extend' ? 'go on' : 'parts anew'}` : '';
    change();
  }
  wave.canvas.addEventListener('keyup', name);
  use.onchange = lay;
  level.oninput = () => { levelText.textContent = level.value; };
  more.oninput = change;

  let parts = [];
  const readParts = () => parts;
  function list(found) {
    parts = found;
    rows.replaceChildren(...parts.map((part, index) => {
      const ends = part.map((value, end) => {
        const input = make('input', { type: 'number', min: 0, step: 'any', value, inputMode: 'decimal', aria: { label: `part ${index + 1}, ${end ? 'end' : 'begin'} in seconds` } });
        input.onchange = () => {
          const changed = parts.map(one => [...one]);
          changed[index][end] = numberOf(input) ?? value;
          wave.setParts(changed, true);
        };
        return input;
      });
      const remove = button('✕', () => wave.setParts(parts.filter(one => one !== part), true), { title: 'Remove' });
      remove.setAttribute('aria-label', `Remove part ${index + 1}`);
      return make('div', { className: 'part' }, `${index + 1}.`, ends[0], 'to', ends[1], 's', remove);
    }));
  }
  async function show(sound) {
    body.hidden = !sound;
    list([]);
    wave.parts = [];
    wave.begun = null;
    if (sound) {
      try {
        const peaks = await values(`${sound.path}/peaks?parts=600`);
        if (picker.sound !== sound) return;
        wave.show(peaks);
        if (pending) { wave.setParts(pending, true); pending = null; }
      } catch (error) {
        picker.set(null);
        told.textContent = error.message;
      }
    }
    lay();
  }
  let pending = null;

  return {
    get seconds() { return picker.sound && use.value === 'extend' ? wave.seconds + (numberOf(more) ?? 0) : null; },
    /** Whether it says how long the clip is. */
    get givesLength() { return Boolean(picker.sound) && use.value === 'extend'; },
    /** Its length, which a clip has whose parts are made anew, unless another is asked for. */
    get kept() { return picker.sound && use.value === 'parts' ? wave.seconds : null; },
    /** Keys of a request; throws an Error with what is missing. */
    values() {
      const sound = picker.sound;
      if (!sound) return {};
      if (use.value === 'start') return { init_audio: sound.id, init_noise_level: Number(level.value) };
      if (use.value === 'extend') return { inpaint_audio: sound.id, extend: numberOf(more) };
      if (!parts.length) throw new Error('Mark the parts of the sound that are to be made anew.');
      return { inpaint_audio: sound.id, inpaint: parts };
    },
    /** Take a sound {id, title, seconds, path}. */
    take(sound, kind, { seconds = null, noise = null, marked = null } = {}) {
      use.value = kind;
      if (seconds !== null) more.value = seconds;
      if (noise !== null) { level.value = noise; levelText.textContent = level.value; }
      pending = pairs(marked);
      picker.set(sound);
      get('sound-details').open = Boolean(sound);
    },
    focus() { (use.value === 'extend' ? more : use.value === 'parts' ? wave.canvas : level).focus(); },
  };
}
