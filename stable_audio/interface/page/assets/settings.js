// The form: what it asks for as a request of the service, and a request put back into it.

import { conditionerControls } from './controls.js';
import { get, make, numberOf, option, shown } from './dom.js';
import { ofSound } from './sound_input.js';
import { SAMPLERS } from './words.js';

const MOST_SEED = 2 ** 31;
const LENGTH = ['seconds', 'bars', 'bpm', 'beats', 'loop', 'window_seconds'];
const NUMBERS = { steps: 'steps', cfg_scale: 'cfg', scale_phi: 'rescale', loudness: 'loudness', true_peak: 'true-peak', trim_silence: 'trim' };
const OWN = ['model', 'conditioning', 'negative_conditioning', 'seed', 'sampler', 'adapters', 'cfg_rescale', ...LENGTH, ...Object.keys(NUMBERS)];

export const drawSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % MOST_SEED;

/** The model's length as a number that one likes to read. */
const usual = seconds => Math.floor(seconds * 100) / 100 || shown(seconds);

export class Settings {
  /** @param sound the panel of the sound to work on */
  constructor(sound) {
    this.sound = sound;
    this.model = null;
    this.controls = null;
    get('by-bars').onchange = () => this.layLength();
    for (const id of ['seconds', 'bars', 'bpm', 'beats']) get(id).oninput = () => this.layLength();
    get('sampler').onchange = () => this.laySampler();
    get('dice').onclick = () => { get('seed').value = drawSeed(); };
    get('seed').value = drawSeed();
  }

  /** Lay out the controls of a model, with what was entered before where it has a place. */
  show(model, limits) {
    const earlier = this.controls?.values();
    this.model = model;
    this.limits = limits;
    this.controls = conditionerControls(model, get('conditioners'));
    if (earlier) this.controls.keep(earlier);
    const { sampling } = model;
    get('steps').value = sampling.steps;
    get('steps').max = limits.max_steps;
    get('cfg').value = sampling.cfg_scale;
    get('rescale').placeholder = shown(sampling.scale_phi ?? 0);
    get('sampler').replaceChildren(...model.samplers.map(name => option(name)));
    get('sampler').value = sampling.sampler;
    get('seconds').value = usual(model.seconds);
    get('seconds').placeholder = usual(model.seconds);
    get('seconds').max = limits.max_seconds;
    this.layAdapters(model.adapters);
    this.laySampler();
    this.layLength();
  }

  laySampler() {
    const name = get('sampler').value;
    get('sampler-help').textContent = SAMPLERS[name] ? `${name}: ${SAMPLERS[name]}.` : '';
  }

  /** The length that is asked for, in seconds; null if it is open. */
  length() {
    if (this.sound.givesLength) return this.sound.seconds;
    if (!get('by-bars').checked) return numberOf(get('seconds')) ?? this.model?.seconds ?? null;
    const [bars, bpm, beats] = ['bars', 'bpm', 'beats'].map(id => numberOf(get(id)));
    return bars && bpm && beats ? bars * beats * 60 / bpm : null;
  }

  /** Whether a length is beyond that of the model, but for rounding. */
  tooLong(seconds) { return Number.isFinite(seconds) && seconds > (this.model?.seconds ?? Infinity) * 1.0001; }

  layLength() {
    const bars = get('by-bars').checked, given = this.sound.givesLength;
    get('in-seconds').hidden = bars || given;
    for (const id of ['in-bars', 'in-bpm', 'in-beats']) get(id).hidden = !bars || given;
    get('by-bars').closest('label').hidden = given;
    const seconds = this.length(), most = this.model?.seconds || Infinity;
    get('windows-row').hidden = !this.tooLong(seconds);
    const told = bars && seconds ? `${shown(seconds)} s are ` : '';
    get('windows-text').textContent = `${told}longer than the model's ${shown(most)} s: generate in windows of that length`;
  }

  layAdapters(names) {
    get('adapters-details').hidden = !names.length;
    this.adapters = names.map((name, index) => {
      const on = make('input', { type: 'checkbox' });
      const strength = make('input', { type: 'range', min: -1, max: 2, step: 0.01, value: 1, id: `adapter-${index}`, aria: { label: `Strength of ${name}` } });
      const told = make('output', { textContent: '1' });
      const tell = () => {
        told.textContent = strength.value;
        get('adapters-summary').textContent = this.adapters.filter(one => one.on.checked).map(one => `${one.name} ${one.strength.value}`).join(', ');
      };
      strength.oninput = () => { on.checked = true; tell(); };
      on.onchange = tell;
      const element = make('div', { className: 'adapter' }, make('label', { className: 'check' }, on, ` ${name}`), make('span', { className: 'range' }, strength, told));
      return { name, on, strength, tell, element };
    });
    get('adapters').replaceChildren(...this.adapters.map(one => one.element));
    for (const one of this.adapters) one.tell();
  }

  /** The request of the form, without its seed; throws an Error {name} beside whose control it belongs. */
  request() {
    const sound = named('sound', () => this.sound.values());
    const request = { model: this.model.name, ...named('other', otherKeys) };
    request.conditioning = { ...this.controls.values(), ...request.conditioning };
    const negative = this.controls.negative();
    if (Object.keys(negative).length) request.negative_conditioning = { ...negative, ...request.negative_conditioning };
    for (const [key, id] of Object.entries(NUMBERS)) if (numberOf(get(id)) !== null) request[key] = numberOf(get(id));
    // What the model says for its own sampler does not hold for another, so it is named only then.
    if (get('sampler').value !== this.model.sampling.sampler) request.sampler = get('sampler').value;
    Object.assign(request, sound, this.lengthKeys());
    const adapters = this.adapters.filter(one => one.on.checked).map(one => ({ name: one.name, strength: Number(one.strength.value), ...one.rest }));
    if (adapters.length) request.adapters = adapters;
    if (get('title').value.trim()) request.title = get('title').value.trim();
    return request;
  }

  lengthKeys() {
    const keys = {};
    if (!this.sound.givesLength) {
      if (get('by-bars').checked) for (const id of ['bars', 'bpm', 'beats']) keys[id] = numberOf(get(id));
      else if (numberOf(get('seconds')) !== null) keys.seconds = numberOf(get('seconds'));
    }
    if (get('loop-clip').checked) keys.loop = true;
    if (!get('windows-row').hidden && get('windows').checked) keys.window_seconds = this.model.seconds;
    return keys;
  }

  /** Put a request into the form. */
  take(request) {
    const other = this.controls.set(request.conditioning, request.negative_conditioning);
    const { sampling } = this.model;
    for (const [key, id] of Object.entries(NUMBERS)) get(id).value = request[key] ?? (['steps', 'cfg_scale'].includes(key) ? sampling[key] : '');
    get('rescale').value = request.scale_phi ?? request.cfg_rescale ?? '';
    get('sampler').value = request.sampler ?? sampling.sampler;
    get('by-bars').checked = request.bars !== undefined;
    for (const id of ['bars', 'bpm', 'beats']) if (request[id] !== undefined) get(id).value = request[id];
    get('seconds').value = request.seconds ?? '';
    get('loop-clip').checked = Boolean(request.loop);
    const windows = request.window_seconds;
    get('windows').checked = windows === this.model.seconds || (windows === undefined && !this.tooLong(request.seconds));
    if (windows !== undefined && windows !== this.model.seconds) other.window_seconds = windows;
    for (const one of this.adapters) {
      const asked = (request.adapters || []).find(other => other.name === one.name);
      one.on.checked = Boolean(asked);
      one.strength.value = asked?.strength ?? 1;
      one.rest = asked?.interval ? { interval: asked.interval } : {};
      one.tell();
    }
    const own = [...OWN, ...ofSound(request)];
    for (const [key, value] of Object.entries(request)) if (!own.includes(key)) other[key] = value;
    get('other').value = Object.keys(other).length ? JSON.stringify(other) : '';
    get('seed').value = request.seed;
    this.laySampler();
    this.layLength();
  }
}

function otherKeys() {
  const text = get('other').value.trim();
  if (!text) return {};
  let found;
  try { found = JSON.parse(text); } catch (error) { throw new Error(`This is no JSON: ${error.message}`); }
  if (typeof found !== 'object' || found === null || Array.isArray(found)) throw new Error('An object is needed, such as {"cfg_interval": [0.2, 0.8]}.');
  return found;
}

/** Say of an error to which control it belongs. */
function named(name, action) {
  try { return action(); } catch (error) { throw Object.assign(error, { name }); }
}
