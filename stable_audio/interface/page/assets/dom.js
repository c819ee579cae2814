// Elements, made without any text being read as markup.

export const get = id => document.getElementById(id);

/** An element; properties are those of the DOM, `aria` and `data` are attributes. */
export function make(tag, { aria = {}, data = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(aria)) element.setAttribute(`aria-${name}`, value);
  for (const [name, value] of Object.entries(data)) element.dataset[name] = value;
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

export function button(text, action, properties = {}) {
  const element = make('button', { type: 'button', textContent: text, ...properties });
  element.onclick = action;
  return element;
}

export function option(value, text = value) {
  return make('option', { value, textContent: text });
}

/** A number as people read it. */
export function shown(value) {
  if (value === null || value === undefined) return 'none';
  if (typeof value === 'number') return String(Number.isInteger(value) ? value : +value.toPrecision(6));
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

/** The number of an input; null if it is empty. */
export function numberOf(input) {
  return input.value.trim() === '' ? null : Number(input.value);
}

export function clock(seconds) {
  return seconds < 60 ? `${seconds.toFixed(seconds < 10 ? 2 : 1)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** Give the browser something to save. */
export function save(name, blob) {
  const address = URL.createObjectURL(blob);
  make('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
