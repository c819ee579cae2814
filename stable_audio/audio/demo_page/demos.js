'use strict';
(() => {
const get = id => document.getElementById(id);
const data = JSON.parse(get('data').textContent);
const { cells, steps } = data;
const player = get('player');
const clipOf = steps.map(step => new Map(step.clips.map(clip => [clip.cell, clip])));
let at = steps.length - 1;  // the step that is shown
let cell = null;  // the cell that plays
let playing = null;  // its clip
let grid = [];  // rows of { cell, step, button, head }
let heads = [];  // { cell, element }: rows whose text can differ between steps

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const stepName = index => steps[index].step === null ? '' : 'step ' + steps[index].step.toLocaleString('en');
const title = number => `${cells[number].row}, ${cells[number].column}`;
const words = () => get('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
const fits = number => words().every(word => title(number).toLowerCase().includes(word));

// Clips
function entry(number, index) {
  const picture = make('span', { className: 'picture' });
  const head = make('i', { className: 'head' });
  const told = make('span', { className: 'told' });
  const button = make('button', { type: 'button', className: 'clip' }, picture, told);
  const place = { cell: number, step: index, button, head, picture, told };
  button.onclick = event => {
    const box = picture.getBoundingClientRect();
    const inside = event.detail > 0 && event.clientY < box.bottom && box.width > 0;
    const again = playing && playing === clipAt(place) && player.getAttribute('src');
    if (again && inside) seek((event.clientX - box.left) / box.width);
    else if (again) toggle();
    else choose(place, true);
  };
  show(place);
  return place;
}
const clipAt = place => clipOf[place.step === null ? at : place.step].get(place.cell);
function show(place) {
  const clip = clipAt(place);
  const { button, picture, told, head } = place;
  button.disabled = !clip;
  button.setAttribute('aria-label', clip ? `${title(place.cell)}, ${stepName(place.step === null ? at : place.step)}${clip.clipped ? ', clipped' : ''}` : 'no clip');
  picture.classList.toggle('plain', !(clip && clip.picture));
  picture.replaceChildren(...(clip && clip.picture ? [make('img', { src: clip.picture, loading: 'lazy', decoding: 'async', alt: '' })] : []), head);
  told.replaceChildren(...(clip ? facts(clip) : [make('span', { className: 'none', textContent: '—' })]));
  mark(place);
}
function facts(clip) {
  const parts = [clip.loudness === null ? null : `${clip.loudness.toFixed(1)} LUFS`, `peak ${clip.peak.toFixed(2)}`, clip.seconds ? `${+clip.seconds.toFixed(1)} s` : null];
  const list = [parts.filter(Boolean).join(' · ')];
  if (clip.clipped) list.push(' ', make('b', { className: 'bad', textContent: 'clipped' }));
  if (clip.row && get('all').checked) list.push(make('br'), clip.row);
  return list;
}
function mark(place) {
  if (playing && playing === clipAt(place)) place.button.setAttribute('aria-current', 'true');
  else place.button.removeAttribute('aria-current');
}
const places = () => grid.flat();

// Tables
function build() {
  grid = [];
  heads = [];
  const wide = get('all').checked;
  get('demos').replaceChildren(...(wide ? [stepsTable()] : stepTables()));
  if (!grid.length) get('demos').append(make('p', { className: 'none', textContent: cells.length ? 'No demo fits the filter.' : 'There are no demos yet.' }));
  get('steps').hidden = wide || steps.length < 2;
  tellRows();
  pictures();
}
const rowAt = (number, index) => (clipOf[index] && clipOf[index].get(number) || {}).row || cells[number].row;
function tellRows() { for (const head of heads) head.element.textContent = rowAt(head.cell, at); }
function stepTables() {
  const rows = new Map();
  cells.forEach((c, number) => { if (fits(number)) rows.set(c.row, [...(rows.get(c.row) || []), number]); });
  const groups = new Map();  // rows with the same columns share a table
  for (const [row, numbers] of rows) {
    const key = JSON.stringify(numbers.map(number => cells[number].column));
    groups.set(key, [...(groups.get(key) || []), [row, numbers]]);
  }
  return [...groups].map(([key, members]) => {
    const columns = JSON.parse(key);
    const table = make('table', {}, make('thead', {}, make('tr', {}, ...columns.map(c => make('th', { scope: 'col', textContent: c })))));
    table.style.minWidth = `${6 * columns.length}rem`;
    table.style.maxWidth = `${27 * columns.length}rem`;
    for (const [, numbers] of members) {
      const line = numbers.map(number => entry(number, null));
      grid.push(line);
      const head = make('th', { scope: 'rowgroup', colSpan: columns.length });
      heads.push({ cell: numbers[0], element: head });
      table.append(make('tbody', {}, make('tr', {}, head),
        make('tr', {}, ...line.map(place => make('td', {}, place.button)))));
    }
    return make('div', { className: 'scroll' }, table);
  });
}
function stepsTable() {
  const head = make('tr', {}, make('th', { textContent: '' }), ...steps.map((_, index) => make('th', { scope: 'col', textContent: stepName(index) })));
  const body = make('tbody');
  cells.forEach((c, number) => {
    if (!fits(number)) return;
    const line = steps.map((_, index) => entry(number, index));
    grid.push(line);
    body.append(make('tr', {}, make('th', { scope: 'row' }, c.row, make('small', { textContent: c.column })), ...line.map(place => make('td', {}, place.button))));
  });
  const box = make('div', { className: 'scroll' }, make('table', { className: 'wide' }, make('thead', {}, head), body));
  requestAnimationFrame(() => { box.scrollLeft = box.scrollWidth; });
  return grid.length ? box : make('div');
}
function pictures() {
  const step = steps[at];
  const list = !step || get('all').checked ? [] : step.pictures;
  get('pictures').replaceChildren(...list.map(url => make('img', { src: url, loading: 'lazy', alt: decodeURIComponent(url.split('/').pop()) })));
}

// Steps
function go(to) {
  const next = Math.min(steps.length - 1, Math.max(0, to));
  if (next === at || !steps.length) return;
  at = next;
  tellStep();
  if (get('all').checked) return;
  places().forEach(show);
  tellRows();
  pictures();
  if (cell === null) return;
  const clip = clipOf[at].get(cell);
  if (clip && clip !== playing) start(clip, player.ended ? 0 : player.currentTime, player.paused);
  places().forEach(mark);
}
function tellStep() {
  get('step').value = at;
  get('at').textContent = steps.length ? stepName(at) : '';
  get('earlier').disabled = at <= 0;
  get('later').disabled = at >= steps.length - 1;
  remember();
}
function remember() {
  if (!steps.length || steps[at].step === null) return;
  try { history.replaceState(null, '', `#step=${steps[at].step}${get('all').checked ? '&all' : ''}`); } catch { /* not here */ }
}

// Playing
function choose(place, play) {
  const clip = clipAt(place);
  if (!clip) return;
  cell = place.cell;
  if (play) start(clip, 0, false);
  place.button.focus({ preventScroll: true });
  place.button.scrollIntoView({ block: 'nearest', inline: 'nearest' });
}
function start(clip, from, paused) {
  playing = clip;
  player.src = clip.url;
  player.loop = get('loop').checked;
  even();
  if (from > 0) player.currentTime = from;
  const index = steps.findIndex((_, i) => clipOf[i].get(clip.cell) === clip);
  get('now').textContent = [title(clip.cell), stepName(index)].filter(Boolean).join(', ');
  places().forEach(mark);
  if (!paused) player.play().catch(error => { if (error.name !== 'AbortError') get('now').textContent = `${decodeURIComponent(clip.url)}: cannot be played here (${error.message})`; });
}
const loudnesses = steps.flatMap(step => step.clips.map(clip => clip.loudness)).filter(value => value !== null && value > -50);
const quietest = Math.min(...loudnesses, 0);
function even() {
  const own = playing && playing.loudness !== null ? playing.loudness : quietest;
  player.volume = get('even').checked ? Math.min(1, Math.pow(10, (quietest - own) / 20)) : 1;
}
function toggle() {
  if (!player.getAttribute('src')) { const first = places().find(clipAt); if (first) choose(first, true); return; }
  if (player.paused) player.play().catch(() => {}); else player.pause();
}
function seek(share) { if (isFinite(player.duration)) { player.currentTime = Math.max(0, share) * player.duration; if (player.paused) player.play().catch(() => {}); } }
function move(down, right) {
  if (!grid.length) return;
  let row = grid.findIndex(line => line.some(place => place.button === document.activeElement));
  if (row < 0) row = grid.findIndex(line => line.some(place => playing && clipAt(place) === playing));
  if (row < 0) { const first = places().find(clipAt); if (first) choose(first, true); return; }
  let column = grid[row].findIndex(place => place.button === document.activeElement);
  if (column < 0) column = grid[row].findIndex(place => clipAt(place) === playing);
  row = Math.min(grid.length - 1, Math.max(0, row + down));
  column = Math.min(grid[row].length - 1, Math.max(0, column + right));
  choose(grid[row][column], true);
}
function along(by) {
  const list = places().filter(clipAt);
  const now = list.findIndex(place => clipAt(place) === playing);
  const next = list[now < 0 ? 0 : Math.min(list.length - 1, Math.max(0, now + by))];
  if (next && clipAt(next) !== playing) choose(next, true);
}
function progress() {
  if (isFinite(player.duration) && player.duration > 0) {
    const share = player.currentTime / player.duration;
    get('position').value = share;
    get('time').textContent = `${player.currentTime.toFixed(1)} / ${player.duration.toFixed(1)} s`;
    for (const place of places()) if (clipAt(place) === playing) place.head.style.left = `${100 * share}%`;
  }
  if (!player.paused) requestAnimationFrame(progress);
}
player.onplay = () => { get('play').textContent = '❚❚'; requestAnimationFrame(progress); };
player.onpause = () => { get('play').textContent = '▶'; };
player.onseeked = player.onended = progress;

// Controls and keys
get('step').max = Math.max(0, steps.length - 1);
get('step').oninput = () => go(+get('step').value);
get('earlier').onclick = () => go(at - 1);
get('later').onclick = () => go(at + 1);
get('all').onchange = () => { build(); remember(); };
get('filter').oninput = build;
get('play').onclick = toggle;
get('loop').onchange = () => { player.loop = get('loop').checked; };
get('even').onchange = even;
get('position').oninput = () => { if (isFinite(player.duration)) player.currentTime = get('position').value * player.duration; };
get('help').onclick = () => get('keys').showModal();
get('wide').hidden = steps.length < 2;
const KEYS = {
  ArrowDown: () => move(1, 0), ArrowUp: () => move(-1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
  j: () => along(1), k: () => along(-1), ' ': toggle, ',': () => go(at - 1), '.': () => go(at + 1),
  Home: () => go(0), End: () => go(steps.length - 1), v: () => { if (steps.length > 1) get('all').click(); },
  l: () => get('loop').click(), e: () => get('even').click(), '/': () => get('filter').focus(), '?': () => get('keys').showModal(),
};
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || get('keys').open) return;
  const target = event.target;
  if (target.matches('input:not([type=checkbox])')) { if (event.key === 'Escape') target.blur(); return; }
  if (event.shiftKey && event.key.startsWith('Arrow')) {
    if (event.key === 'ArrowLeft') player.currentTime = Math.max(0, player.currentTime - 1);
    if (event.key === 'ArrowRight') player.currentTime += 1;
    return;
  }
  if ((event.key === ' ' || event.key === 'Enter') && target.matches('button:not(.clip), a, input')) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});

const asked = new URLSearchParams(location.hash.slice(1));
const index = steps.findIndex(step => String(step.step) === asked.get('step'));
if (index >= 0) at = index;
if (asked.has('all') && steps.length > 1) get('all').checked = true;
tellStep();
build();
document.documentElement.dataset.ready = Math.round(performance.now());
})();
