'use strict';
(() => {
const get = id => document.getElementById(id);
const { COLOURS, number } = charts;
const LIVE_MS = 4000, READING_MS = 250;
const TABS = ['curves', 'demos', 'differences', 'log'];
const ORDER = ['failed', 'died', 'stalled', 'running', 'starting', 'stopped', 'finished'];

let runs = [];  // summaries, as the server lists them
let folders = [];
let current = null;  // name of the run that is shown
let tab = 'curves';
const compared = new Set();
const loaded = new Map();  // name -> what /api/run said
const colours = new Map();  // name -> colour, for as long as the page is open
let sort = { key: null, sign: 1 };
let shownDemos = '';

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
async function ask(path, values = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}
const summary = name => runs.find(run => run.name === name);
const colourOf = name => { if (!colours.has(name)) colours.set(name, COLOURS[colours.size % COLOURS.length]); return colours.get(name); };

// The list
const left = run => run.state === 'running' && run.max_steps && run.speed > 0 ? Math.max(0, run.max_steps - run.step) / run.speed : null;
function time(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  for (const [size, unit] of [[86400, 'd'], [3600, 'h'], [60, 'min']]) if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  return `${Math.round(seconds)} s`;
}
const COLUMNS = [
  { title: '', key: null, cell: run => compareBox(run) },
  { title: 'state', key: run => ORDER.indexOf(run.state), cell: run => make('span', { className: `state ${run.state}`, textContent: run.state, title: run.told }) },
  { title: 'run', key: run => run.name, cell: run => run.name },
  { title: 'step', key: run => run.step, cell: run => run.step === null ? '–' : run.step.toLocaleString('en') + (run.max_steps ? ` / ${run.max_steps.toLocaleString('en')}` : '') },
  { title: 'left', key: left, cell: run => time(left(run)) },
  { title: 'loss', key: run => run.loss, cell: run => number(run.loss) },
  { title: '', key: null, cell: run => make('canvas', { className: 'spark' }) },
  { title: 'validation', key: run => run.validation, cell: run => number(run.validation) },
  { title: 'best', key: run => run.best, cell: run => number(run.best) },
  { title: 'steps/s', key: run => run.speed, cell: run => number(run.speed) },
  { title: 'data wait', key: run => run.data_wait, cell: run => run.data_wait === null || run.data_wait === undefined ? '–' : `${Math.round(100 * run.data_wait)}%` },
  { title: 'last sign', key: run => run.silent, cell: run => `${time(run.silent)} ago` },
];
function compareBox(run) {
  const box = make('input', { type: 'checkbox', checked: compared.has(run.name) });
  box.setAttribute('aria-label', `Compare ${run.name}`);
  box.onclick = event => event.stopPropagation();
  box.onchange = () => compare(run.name, box.checked);
  const dot = make('i', { className: 'dot' });
  dot.style.background = compared.has(run.name) || run.name === current ? colourOf(run.name) : 'transparent';
  return make('span', {}, box, ' ', dot);
}
function heads() {
  get('columns').replaceChildren(...COLUMNS.map(column => {
    const head = make('th', { scope: 'col' });
    if (!column.key) return head;
    const button = make('button', { type: 'button', textContent: column.title });
    if (sort.key === column.key) { button.textContent += sort.sign > 0 ? ' ↑' : ' ↓'; head.setAttribute('aria-sort', sort.sign > 0 ? 'ascending' : 'descending'); }
    button.onclick = () => { sort = { key: column.key, sign: sort.key === column.key ? -sort.sign : 1 }; heads(); list(); };
    head.append(button);
    return head;
  }));
}
function listed() {
  const words = get('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const some = runs.filter(run => words.every(word => `${run.name} ${run.state}`.toLowerCase().includes(word)));
  if (!sort.key) return some;
  const value = run => { const v = sort.key(run); return v === undefined ? null : v; };
  return some.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sort.sign * (typeof x === 'string' ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
  });
}
function list() {
  const focused = document.activeElement && document.activeElement.closest('#runs tr');
  const name = focused ? focused.dataset.name : null;
  const rows = listed().map(run => {
    const row = make('tr', { tabIndex: 0 }, ...COLUMNS.map(column => make('td', {}, column.cell(run))));
    row.dataset.name = run.name;
    row.setAttribute('aria-selected', run.name === current);
    row.onclick = () => open(run.name);
    return row;
  });
  get('runs').replaceChildren(...rows);
  for (const row of rows) charts.spark(row.querySelector('canvas'), summary(row.dataset.name).spark, getComputedStyle(row).color);
  const again = rows.find(row => row.dataset.name === name);
  if (again) again.focus({ preventScroll: true });
  get('nothing').hidden = rows.length > 0;
  get('nothing').textContent = runs.length ? 'No run fits the filter.' : `There are no runs in ${folders.join(', ')} yet.`;
}

// One run
function open(name) {
  current = name;
  get('detail').hidden = false;
  remember();
  list();
  show();
  load();
}
function compare(name, on) {
  if (on) compared.add(name); else compared.delete(name);
  if (current === null && on) { open(name); return; }
  list();
  load();
}
const chosen = () => [...new Set([current, ...compared])].filter(name => name !== null && summary(name));
async function load() {
  for (const name of chosen()) {
    const known = loaded.get(name);
    if (known && known.complete && known.changes === summary(name).changes) continue;
    try { loaded.set(name, await ask('api/run', { name })); } catch (error) { tell(`${name}: ${error.message}`); }
  }
  show();
}
function show() {
  const run = current === null ? null : summary(current);
  get('detail').hidden = !run;
  if (!run) return;
  get('name').textContent = run.name;
  get('told').replaceChildren(make('span', { className: `state ${run.state}`, textContent: run.state }), ` ${run.told}`);
  for (const name of TABS) {
    get(name).hidden = name !== tab;
    get(`tab-${name}`).setAttribute('aria-selected', name === tab);
    get(`tab-${name}`).tabIndex = name === tab ? 0 : -1;
  }
  if (tab === 'curves') curves();
  if (tab === 'demos') demos();
  if (tab === 'differences') differences();
  if (tab === 'log' && loaded.has(current)) log(loaded.get(current));
}
function log(own) {
  get('log').querySelector('pre').textContent = own.log || 'The run has written no log.';
  get('befell').hidden = !own.incidents.length;
  const cells = entry => [entry.time, entry.step === undefined ? '' : `step ${entry.step}`, entry.kind, (entry.process ? `process ${entry.process}: ` : '') + entry.text];
  get('befell').querySelector('tbody').replaceChildren(...own.incidents.map(entry => make('tr', {}, ...cells(entry).map(text => make('td', { textContent: String(text === undefined ? '' : text) })))));
}
function figure(key, title, kind = '') {
  const known = get('charts').querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (known) return known;
  const canvas = make('canvas');
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', title);
  const box = make('figure', { className: kind }, make('figcaption', {}, title, make('output')), canvas, make('div', { className: 'legend' }));
  box.dataset.key = key;
  return box;
}
function curves() {
  const own = loaded.get(current);
  if (!own) return;
  const several = chosen().filter(name => loaded.has(name));
  const smooth = +get('smooth').value, log = get('log-scale').checked;
  const line = (data, column, label, colour) => ({ label, colour, latest: data.latest[column], ...data.series[column] });
  const drawn = own.charts.map(({ title, columns }) => {
    const column = columns[0], options = { smooth: title === 'validation' ? 0 : smooth, log: log && /loss|validation/.test(title) };
    const lines = several.length > 1
      ? several.filter(name => loaded.get(name).series[column]).map(name => line(loaded.get(name), column, name, colourOf(name)))
      : columns.map((name, i) => line(own, name, name, COLOURS[i % COLOURS.length]));
    const name = several.length > 1 && columns.length > 1 ? `${title} (${column})` : title;
    return [figure(name, name), box => charts.lines(box, lines, options)];
  });
  if (own.levels.length) {
    const title = 'loss by noise level (sigma)' + (several.length > 1 ? ` of ${current}` : '');
    const rows = own.levels.map(column => ({ label: column.replace(/^.*_/, ''), ...own.series[column] }));
    drawn.splice(1, 0, [figure(title, title, 'heat'), box => charts.heat(box, rows, { own: get('own-range').checked })]);
  }
  const boxes = drawn.map(([box]) => box), before = [...get('charts').children];
  if (boxes.length !== before.length || boxes.some((box, i) => box !== before[i])) get('charts').replaceChildren(...boxes);
  drawn.forEach(([box, draw]) => draw(box));
  const others = get('others');
  others.hidden = !own.others.length;
  others.querySelector('tbody').replaceChildren(...own.others.map(column => make('tr', {}, make('td', { textContent: column }), make('td', { textContent: number(own.latest[column]) }), make('td', {}, make('canvas', { className: 'spark' })))));
  if (others.open) sparks();
}
function sparks() {
  const own = loaded.get(current), canvases = get('others').querySelectorAll('canvas');
  own.others.forEach((column, i) => charts.spark(canvases[i], own.series[column].mean, COLOURS[0]));
}
async function demos() {
  const name = current;
  let steps = [];
  try { ({ steps } = await ask('api/demos', { name })); } catch (error) { tell(error.message); return; }
  const key = JSON.stringify([name, steps]);
  if (key === shownDemos || name !== current) return;
  const frame = get('demos').querySelector('iframe');
  if (frame && shownDemos && JSON.parse(shownDemos)[0] === name && playing(frame)) return;  // not while somebody listens
  shownDemos = key;
  if (!steps.length) { get('demos').replaceChildren(make('p', { textContent: 'This run has no demos yet.' })); return; }
  const all = steps.length > 1 ? '#all' : '';
  get('demos').replaceChildren(make('iframe', { src: `demos/${name.split('/').map(encodeURIComponent).join('/')}/demos/${all}`, title: `Demos of ${name}` }));
}
function playing(frame) {
  const player = frame.contentDocument && frame.contentDocument.getElementById('player');
  return Boolean(player && !player.paused);
}
async function differences() {
  const others = runs.map(run => run.name).filter(name => name !== current).sort((a, b) => compared.has(b) - compared.has(a) || a.localeCompare(b));
  const select = get('other');
  if (JSON.stringify([...select.options].map(option => option.value)) !== JSON.stringify(others)) {
    const before = select.value;
    select.replaceChildren(...others.map(name => make('option', { value: name, textContent: name })));
    if (others.includes(before)) select.value = before;
  }
  get('first').textContent = current;
  get('second').textContent = select.value;
  if (!select.value) { get('count').textContent = 'there is no other run'; return; }
  const first = current, second = select.value;
  let found;
  try { found = (await ask('api/differences', { first, second })).differences; } catch (error) { tell(error.message); return; }
  if (first !== current || second !== select.value) return;
  get('count').textContent = found.length ? `${found.length} settings differ` : 'no setting differs';
  const side = (entry, name) => make('td', { textContent: name in entry ? JSON.stringify(entry[name], null, 1) : '—' });
  get('differing').replaceChildren(...found.map(entry => make('tr', {}, make('td', { textContent: entry.path }), side(entry, 'first'), side(entry, 'second'))));
}

// Following
let timer = 0;
async function follow() {
  clearTimeout(timer);
  let wait = LIVE_MS;
  try {
    const answer = await ask('api/runs');
    ({ runs, folders } = answer);
    if (current === null && runs.length) { const asked = new URLSearchParams(location.hash.slice(1)); current = summary(asked.get('run')) ? asked.get('run') : runs[0].name; tab = TABS.includes(asked.get('tab')) ? asked.get('tab') : tab; }
    const bad = runs.filter(run => ['stalled', 'died', 'failed'].includes(run.state)).length;
    const read = runs.filter(run => run.complete).length;
    const parts = [`${runs.length} runs`, `${runs.filter(run => run.state === 'running').length} running`];
    if (bad) parts.push(`${bad} stalled, died or failed`);
    if (!answer.complete) parts.push(`${read} read whole`);
    if (!answer.complete || chosen().some(name => !(loaded.get(name) || {}).complete)) wait = READING_MS;
    tell(parts.join(', '));
    document.title = `${bad ? `(${bad}) ` : ''}Runs`;
    list();
    await load();
    document.documentElement.dataset.ready = document.documentElement.dataset.ready || Math.round(performance.now());
  } catch (error) { tell(`no answer (${error.message}); trying again`); }
  timer = setTimeout(document.hidden ? () => {} : follow, wait);
}
function tell(text) { if (get('status').textContent !== text) get('status').textContent = text; }
document.addEventListener('visibilitychange', () => { if (!document.hidden) follow(); });
addEventListener('resize', () => { list(); show(); });
matchMedia('(prefers-color-scheme:dark)').addEventListener('change', () => { list(); show(); });

// Controls and keys
function remember() { history.replaceState(null, '', `#${new URLSearchParams({ run: current, tab })}`); }
function choose(name) { tab = name; remember(); show(); }
for (const name of TABS) get(`tab-${name}`).onclick = () => choose(name);
get('tabs').addEventListener('keydown', event => {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  choose(TABS[(TABS.indexOf(tab) + by + TABS.length) % TABS.length]);
  get(`tab-${tab}`).focus();
});
get('filter').oninput = list;
for (const name of ['smooth', 'log-scale', 'own-range']) get(name).oninput = show;
get('other').onchange = differences;
get('others').ontoggle = sparks;
get('help').onclick = () => get('keys').showModal();
function step(by) {
  const names = listed().map(run => run.name), at = names.indexOf(current);
  const next = names[Math.min(names.length - 1, Math.max(0, at + by))];
  if (next === undefined || next === current) return;
  open(next);
  const row = [...get('runs').children].find(element => element.dataset.name === next);
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: 'nearest' });
}
const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  ' ': () => { if (current !== null) compare(current, !compared.has(current)); },
  '/': () => get('filter').focus(), '?': () => get('keys').showModal(),
  1: () => choose('curves'), 2: () => choose('demos'), 3: () => choose('differences'), 4: () => choose('log'),
  Enter: () => { const row = document.activeElement.closest('#runs tr'); if (row) open(row.dataset.name); },
};
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || get('keys').open) return;
  const target = event.target;
  if (target.matches('input:not([type=checkbox]), select')) { if (event.key === 'Escape') target.blur(); return; }
  if ((event.key === ' ' || event.key === 'Enter') && target.matches('button, a, input, summary')) return;
  const action = KEYS[event.key];
  if (action) { event.preventDefault(); action(); }
});
heads();
follow();
})();
