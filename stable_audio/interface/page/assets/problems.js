// What is wrong, beside the control that it concerns.

import { get, make } from './dom.js';

const NAMES = { cfg_rescale: 'scale_phi', extend: 'sound', init_audio: 'sound', init_noise_level: 'sound', inpaint: 'sound', inpaint_audio: 'sound', inpaint_repeats: 'sound' };

const SENTENCES = /; (?!allowed|did you mean|leave|choose|use )/;
const BEGIN = 30;  // characters of a sentence within which it names what it is about

export function clearProblems() {
  for (const note of document.querySelectorAll('.note')) note.remove();
  for (const input of document.querySelectorAll('[aria-invalid]')) {
    input.removeAttribute('aria-invalid');
    input.removeAttribute('aria-errormessage');
  }
  get('problem').textContent = '';
}

/** Tell it beside the control of this name; false if there is none. */
export function showProblem(name, text) {
  const field = [...get('form').querySelectorAll('[data-name]')].find(one => one.dataset.name === name);
  if (!field) return false;
  const input = field.matches('input') ? field : field.querySelector('input, textarea, select, button');
  let note = field.querySelector(':scope > .note');
  if (!note) {
    note = make('p', { className: 'note bad', id: `note-${name.replaceAll(/\W/g, '-')}` });
    field.append(note);
  }
  note.textContent += (note.textContent ? ' ' : '') + text;
  if (input) {
    input.setAttribute('aria-invalid', 'true');
    input.setAttribute('aria-errormessage', note.id);
  }
  for (let up = field.parentElement; up; up = up.parentElement) if (up.matches('details')) up.open = true;
  field.hidden = false;
  return true;
}

/** Put the sentences of the service beside the controls that they name, and the others below the button. */
export function placeProblems(detail) {
  const names = [...get('form').querySelectorAll('[data-name]')].map(field => field.dataset.name);
  const known = [...new Set([...names, ...Object.keys(NAMES)])];
  const rest = [];
  const lacking = /^conditioning lacks ([^;]+)/.exec(detail)?.[1].split(', ') || [];
  if (lacking.length && lacking.every(name => names.includes(name))) {
    for (const name of lacking) showProblem(name, 'The model needs this.');
    detail = '';
  }
  for (const text of detail.split(SENTENCES)) {
    const name = firstNamed(text, known) || (text.startsWith('$.') ? 'other' : null);
    if (!name || !showProblem(NAMES[name] || name, text.replace(/^(--|\$\.)/, ''))) rest.push(text);
  }
  const placed = document.querySelectorAll('.note').length;
  get('problem').textContent = rest.join('; ') || (placed ? 'Not generated: see what is marked.' : '');
  document.querySelector('[aria-invalid]')?.focus();
}

/** The name with which a sentence begins, as a word of its own or as a flag; the longest where several do. */
function firstNamed(text, names) {
  let first = null;
  for (const name of names) {
    const at = new RegExp(`(?<!\\w)${name.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll('_', '[_-]')}(?![\\w-])`).exec(text)?.index;
    if (at === undefined || at > BEGIN) continue;
    if (!first || at < first.at || (at === first.at && name.length > first.name.length)) first = { at, name };
  }
  return first?.name;
}

/** Mark what the browser itself sees to be wrong; whether nothing is. */
export function checkInputs() {
  let right = true;
  for (const input of get('form').querySelectorAll('input, textarea')) {
    if (input.closest('[hidden]') || input.disabled || input.validity.valid) continue;
    const field = input.closest('[data-name]');
    if (!field) continue;
    showProblem(field.dataset.name, input.validationMessage);
    right = false;
  }
  if (!right) {
    get('problem').textContent = 'Not generated: see what is marked.';
    document.querySelector('[aria-invalid]')?.focus();
  }
  return right;
}
