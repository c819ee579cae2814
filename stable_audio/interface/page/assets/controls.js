// A control for every conditioner of a model, made from what the service says of it.

import { make, numberOf, option } from './dom.js';
import { soundPicker } from './picker.js';

let ids = 0;

/** The controls of a model: `values()`, `negative()`, and `set(conditioning, negative)`. */
export function conditionerControls(model, place) {
  const asked = model.conditioners.filter(one => !one.from_length);
  const parts = asked.map(one => ({ ...one, ...KINDS[one.kind](one) }));
  const steered = parts.filter(one => one.kind === 'text' || one.kind === 'choice').map(one => ({ ...one, ...KINDS[one.kind]({ ...one, negative: true }) }));
  place.replaceChildren(...parts.map(one => one.element));
  if (steered.length) place.append(make('details', {}, make('summary', { textContent: 'Steer away from' }), ...steered.map(one => one.element)));
  if (!parts.length) place.append(make('p', { className: 'soft', textContent: 'This model asks for nothing: every seed is a sound.' }));
  return {
    values: () => read(parts),
    negative: () => read(steered),
    /** Put values into the controls; returns those that have none, as keys of a request. */
    set(conditioning = {}, negative = {}) {
      write(parts, conditioning);
      write(steered, negative);
      const left = { conditioning: without(conditioning, parts), negative_conditioning: without(negative, steered) };
      return Object.fromEntries(Object.entries(left).filter(([, values]) => Object.keys(values).length));
    },
    /** Values of another model's controls, as far as this one has them. */
    keep: earlier => write(parts.filter(one => one.key in earlier), earlier),
  };
}

function read(parts) {
  const values = {};
  for (const part of parts) {
    const value = part.read();
    if (value !== null && value !== undefined) values[part.key] = value;
  }
  return values;
}

function without(values, parts) {
  const keys = parts.flatMap(part => [part.key, part.default_key]);
  return Object.fromEntries(Object.entries(values).filter(([key]) => !keys.includes(key)));
}

function write(parts, values) {
  for (const part of parts) part.write(values[part.key] ?? values[part.default_key] ?? null);
}

function field(one, input, { help = '', size = 'whole' } = {}) {
  const id = `c${++ids}`;
  input.id = id;
  const name = one.negative ? `negative_conditioning.${one.key}` : one.key;
  const text = one.key.replaceAll('_', ' ') + (one.required || one.negative ? '' : ' (may be left out)');
  const note = help && make('small', { id: `${id}-help`, textContent: help });
  if (note) input.setAttribute('aria-describedby', note.id);
  return make('div', { className: `field ${size}`, data: { name } }, make('label', { htmlFor: id, textContent: text }), input, note || null);
}

const empty = value => (value === '' ? null : value);

function text(one) {
  const input = make('textarea', { rows: one.negative ? 1 : 2, placeholder: one.negative ? 'what not to hear' : 'what to hear' });
  return { element: field(one, input), read: () => empty(input.value.trim()), write: value => { input.value = value ?? ''; } };
}

function number(one, step) {
  const input = make('input', { type: 'number', step, inputMode: 'decimal' });
  const bounded = Number.isFinite(one.minimum) && Number.isFinite(one.maximum);
  const help = bounded ? `${one.minimum} to ${one.maximum}` : '';
  if (one.minimum !== null && one.minimum !== undefined) input.min = one.minimum;
  if (one.maximum !== null && one.maximum !== undefined) input.max = one.maximum;
  return { element: field(one, input, { help, size: 'half' }), read: () => numberOf(input), write: value => { input.value = value ?? ''; } };
}

function choice(one) {
  const input = make('select', {});
  if (!one.required || one.negative) input.append(option('', '–'));
  input.append(...one.choices.map(value => option(value)));
  return {
    element: field(one, input, { size: 'half' }),
    read: () => empty(input.value),
    write: value => { input.value = one.choices.includes(String(value)) ? String(value) : input.options[0]?.value ?? ''; },
  };
}

function vector(one) {
  const input = make('input', { type: 'text', inputMode: 'decimal', placeholder: '0.1, 0.5, …' });
  const read = () => (input.value.trim() === '' ? null : input.value.split(/[\s,;]+/).filter(Boolean).map(Number));
  return { element: field(one, input, { help: `${one.size} numbers` }), read, write: value => { input.value = value ? value.join(', ') : ''; } };
}

function any(one) {
  const input = make('textarea', { rows: 2, spellcheck: false });
  const read = () => {
    if (input.value.trim() === '') return null;
    try { return JSON.parse(input.value); } catch { return input.value; }
  };
  const write = value => { input.value = value === null ? '' : typeof value === 'string' ? value : JSON.stringify(value); };
  return { element: field(one, input, { help: 'text, or a value as JSON' }), read, write };
}

function pickerField(one, label, picker) {
  return make('div', { className: 'field whole', data: { name: one.key }, role: 'group', aria: { label } },
    make('span', { className: 'label', textContent: label }), picker.element);
}

const stored = id => ({ id, title: `sound ${id.slice(0, 8)}`, seconds: null });

function sound(one) {
  const label = one.key.replaceAll('_', ' ') + (one.required ? '' : ' (may be left out)');
  const picker = soundPicker(label, () => {});
  return { element: pickerField(one, label, picker), read: () => picker.sound?.id ?? null, write: id => picker.set(id ? stored(id) : null) };
}

function sounds(one) {
  const pickers = (one.sources || []).map(source => [source, soundPicker(source, () => {})]);
  const rows = pickers.map(([source, picker]) => make('div', {}, make('span', { className: 'label', textContent: source }), picker.element));
  const element = make('div', { className: 'field whole', data: { name: one.key }, role: 'group', aria: { label: one.key } },
    make('span', { className: 'label', textContent: one.key.replaceAll('_', ' ') }), ...rows);
  const read = () => {
    const chosen = pickers.filter(([, picker]) => picker.sound).map(([source, picker]) => [source, picker.sound.id]);
    return chosen.length || one.required ? Object.fromEntries(chosen) : null;
  };
  const write = value => { for (const [source, picker] of pickers) picker.set(value?.[source] ? stored(value[source]) : null); };
  return { element, read, write };
}

const KINDS = { text, choice, vector, any, sound, sounds, number: one => number(one, 'any'), integer: one => number(one, '1') };
