'use strict';
(() => {
const get = id => document.getElementById(id);
const clips = JSON.parse(get('data').textContent);
const player = get('player');
const CHUNK = 120;  // cards that are added at once
const MOST_CHOICES = 60;  // of a list to filter by
const place = 'contact-sheet:' + location.pathname;

// What the page remembers, where the browser lets pages on a disk remember something.
const store = {
  read() { try { return JSON.parse(localStorage.getItem(place)) || {}; } catch { return {}; } },
  write(value) { try { localStorage.setItem(place, JSON.stringify(value)); } catch { /* not here */ } },
};
const kept = store.read();
const stars = new Set(kept.stars || []);
const save = () => store.write({ stars: [...stars], votes: votes.slice(-2000) });
const votes = kept.votes || [];

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
const shown = value => value === null || value === undefined ? 'none' : typeof value === 'number' ? String(+value.toPrecision(6)) : String(value);

// Facts that differ between clips, and those that all share.
const names = [...new Set(clips.flatMap(clip => Object.keys(clip.facts)))];
const distinct = new Map(names.map(name => [name, [...new Set(clips.map(clip => shown(clip.facts[name])))]]));
const varying = names.filter(name => distinct.get(name).length > 1);
get('common').textContent = names.filter(name => !varying.includes(name)).map(name => `${name} ${distinct.get(name)[0]}`).join(' · ');
clips.forEach((clip, index) => {
  clip.index = index;
  clip.words = [clip.text, clip.file, ...varying.map(name => `${name} ${shown(clip.facts[name])}`)].join('\n').toLowerCase();
});

let order = [];  // the clips that are listed, in their order
let current = null;
let cards = 0;  // how many of them have a card

// The list
function card(clip) {
  const facts = make('div', { className: 'facts' });
  for (const name of varying) {
    if (shown(clip.facts[name]) === clip.text) continue;
    facts.append(make('span', {}, name + ' ', make('b', { textContent: shown(clip.facts[name]) })), ' ');
  }
  facts.append(make('span', { textContent: `${shown(clip.seconds)} s, peak ${clip.peak.toFixed(2)}` }));
  if (clip.clipped) facts.append(' ', make('span', { className: 'bad', textContent: 'clipped' }));
  const star = make('button', { type: 'button', title: 'Star (s)' });
  star.setAttribute('aria-label', 'Star');
  star.onclick = event => { event.stopPropagation(); toggleStar(clip); };
  const row = make('div', { className: 'row' }, make('span', { className: 'facts', textContent: clip.file }), star);
  const article = make('article', { tabIndex: 0 });
  if (clip.picture) article.append(make('img', { src: clip.picture, loading: 'lazy', alt: '', decoding: 'async' }));
  article.append(make('p', { textContent: clip.text }), facts, row);
  article.onclick = () => choose(clip, true);
  clip.card = article;
  clip.starButton = star;
  mark(clip);
  return article;
}
function mark(clip) {
  if (!clip.card) return;
  const on = stars.has(clip.file);
  clip.starButton.textContent = on ? '★' : '☆';
  clip.starButton.className = on ? 'on' : '';
  clip.starButton.setAttribute('aria-pressed', on);
  if (clip === current) clip.card.setAttribute('aria-current', 'true'); else clip.card.removeAttribute('aria-current');
}
function more(upTo = cards + CHUNK) {
  const part = document.createDocumentFragment();
  for (; cards < Math.min(upTo, order.length); cards++) part.append(order[cards].card || card(order[cards]));
  get('clips').insertBefore(part, end);
  // Watched anew, because a mark that stays in sight does not report again.
  watcher.unobserve(end);
  if (cards < order.length) watcher.observe(end);
}
const end = make('div');
get('clips').append(end);
const watcher = new IntersectionObserver(entries => { if (entries.some(e => e.isIntersecting)) more(); }, { rootMargin: '1200px' });

function list() {
  const words = get('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = selects.filter(select => select.value !== '');
  const only = get('starred').checked;
  order = clips.filter(clip => words.every(word => clip.words.includes(word))
    && chosen.every(select => shown(clip.facts[select.name]) === select.value.slice(1))
    && (!only || stars.has(clip.file)));
  const key = get('sort').value, sign = get('direction').textContent === '↑' ? 1 : -1;
  const value = clip => key === 'name' ? clip.index : key === 'starred' ? (stars.has(clip.file) ? 0 : 1)
    : key in clip && key !== 'facts' ? clip[key] : clip.facts[key.slice(5)];
  order.sort((a, b) => sign * compareValues(value(a), value(b)) || a.index - b.index);
  get('clips').replaceChildren(end);
  cards = 0;
  more();
  get('count').textContent = `${order.length} of ${clips.length}`;
  try { sessionStorage.setItem(place, JSON.stringify({ filter: get('filter').value, sort: key })); } catch { /* not here */ }
}
function compareValues(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return shown(a).localeCompare(shown(b), undefined, { numeric: true });
}

// Tools
const selects = varying.filter(name => distinct.get(name).length <= MOST_CHOICES && distinct.get(name).length < clips.length).map(name => {
  const select = make('select', { name, title: name });
  select.setAttribute('aria-label', name);
  select.append(make('option', { value: '', textContent: name + ': all' }));
  const sorted = [...distinct.get(name)].sort(compareValues);
  for (const value of sorted) select.append(make('option', { value: '=' + value, textContent: `${name} ${value}` }));
  select.onchange = list;
  get('facets').append(select);
  return select;
});
for (const [value, text] of [['name', 'name'], ['starred', 'starred'], ['seconds', 'length'], ['peak', 'peak'], ...varying.map(name => ['fact:' + name, name])])
  get('sort').append(make('option', { value, textContent: text }));
let waiting = 0;
get('filter').oninput = () => { clearTimeout(waiting); waiting = setTimeout(list, 80); };
get('sort').onchange = get('starred').onchange = list;
get('direction').onclick = () => { get('direction').textContent = get('direction').textContent === '↑' ? '↓' : '↑'; list(); };
get('help').onclick = () => get('keys').showModal();
get('export').onclick = async () => {
  const text = clips.filter(clip => stars.has(clip.file)).map(clip => clip.file).join('\n');
  if (!text) { tell('nothing is starred'); return; }
  try { await navigator.clipboard.writeText(text); tell(`${text.split('\n').length} names copied`); } catch { download('starred.txt', text + '\n'); }
};
function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: 'text/plain' }));
  make('a', { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
function tell(text) { get('now').textContent = text; }

// The player: one for all clips, so that a thousand cost nothing.
function choose(clip, play) {
  const earlier = current;
  current = clip;
  if (earlier) mark(earlier);
  mark(clip);
  showStar();
  if (play) { start(clip, 0); tell(`${clip.file} — ${clip.text}`); } else tell(clip.file);
}
function start(clip, from) {
  player.src = clip.url;
  player.loop = get('loop').checked;
  if (from > 0) player.currentTime = from;
  player.play().catch(error => { if (error.name !== 'AbortError') tell(`${clip.file}: cannot be played here (${error.message})`); });
}
function toggle() {
  if (!player.getAttribute('src')) { if (order.length) choose(current || order[0], true); return; }
  if (player.paused) player.play().catch(() => {}); else player.pause();
}
function step(by) {
  if (!order.length) return;
  const at = order.indexOf(current);
  const to = at < 0 ? 0 : Math.min(order.length - 1, Math.max(0, at + by));
  if (order[to] === current) return;
  if (to >= cards) more(to + CHUNK);
  choose(order[to], true);
  current.card.scrollIntoView({ block: 'nearest' });
}
function toggleStar(clip) {
  if (!clip) return;
  if (!stars.delete(clip.file)) stars.add(clip.file);
  mark(clip);
  showStar();
  save();
}
function showStar() {
  const on = current && stars.has(current.file);
  get('star').textContent = on ? '★' : '☆';
  get('star').className = on ? 'on' : '';
}
get('play').onclick = toggle;
get('next').onclick = () => step(1);
get('previous').onclick = () => step(-1);
get('star').onclick = () => toggleStar(current);
get('loop').onchange = () => { player.loop = get('loop').checked; };
get('position').oninput = () => { if (isFinite(player.duration)) player.currentTime = get('position').value * player.duration; };
player.ontimeupdate = () => {
  if (!isFinite(player.duration)) return;
  get('position').value = player.currentTime / player.duration;
  get('time').textContent = `${player.currentTime.toFixed(1)} / ${player.duration.toFixed(1)} s`;
};
player.onplay = () => { get('play').textContent = '❚❚'; };
player.onpause = () => { get('play').textContent = '▶'; };
player.onended = () => { if (get('follow').checked && !get('blind').open) step(1); };

// Blind comparison: pairs that differ in one fact alone, in random order, on random sides.
const STARRED = '*';
let trial = null;
function random(below) { return crypto.getRandomValues(new Uint32Array(1))[0] % below; }
function shuffled(items) {
  for (let i = items.length - 1; i > 0; i--) { const j = random(i + 1); [items[i], items[j]] = [items[j], items[i]]; }
  return items;
}
function pairsOf(name, first, second) {
  const groups = new Map();
  for (const clip of order) {
    const value = shown(clip.facts[name]);
    if (value !== first && value !== second) continue;
    const rest = JSON.stringify(varying.filter(other => other !== name).map(other => shown(clip.facts[other])));
    if (!groups.has(rest)) groups.set(rest, {});
    groups.get(rest)[value === first ? 'first' : 'second'] = clip;
  }
  return [...groups.values()].filter(pair => pair.first && pair.second)
    .map(pair => ({ clips: [pair.first, pair.second], sides: [first, second] }));
}
function pairsOfStarred() {
  const list = order.filter(clip => stars.has(clip.file)), pairs = [];
  for (let i = 0; i < list.length; i++) for (let j = i + 1; j < list.length; j++)
    pairs.push({ clips: [list[i], list[j]], sides: [list[i].file, list[j].file] });
  return pairs;
}
function openBlind() {
  player.pause();
  const box = get('blind');
  const what = make('select'), first = make('select'), second = make('select');
  what.setAttribute('aria-label', 'What to compare');
  first.setAttribute('aria-label', 'One value');
  second.setAttribute('aria-label', 'Other value');
  for (const name of varying) if (distinct.get(name).length <= MOST_CHOICES) what.append(make('option', { value: '=' + name, textContent: name }));
  what.append(make('option', { value: STARRED, textContent: 'starred clips, each with each' }));
  const message = make('p');
  const pairs = () => what.value === STARRED ? pairsOfStarred() : pairsOf(what.value.slice(1), first.value.slice(1), second.value.slice(1));
  const count = () => { message.textContent = `${pairs().length} pairs of the clips that are listed`; };
  const values = () => {
    const list = what.value === STARRED ? [] : [...distinct.get(what.value.slice(1))].sort(compareValues);
    for (const select of [first, second]) {
      select.replaceChildren(...list.map(value => make('option', { value: '=' + value, textContent: value })));
      select.hidden = !list.length;
    }
    if (list.length > 1) second.selectedIndex = 1;
    count();
  };
  what.onchange = values;
  first.onchange = second.onchange = count;
  const begin = make('button', { type: 'button', textContent: 'Begin' });
  begin.onclick = () => {
    const list = shuffled(pairs());
    if (!list.length || (what.value !== STARRED && first.value === second.value)) { message.textContent = 'There is no such pair: the two clips agree in all but what is compared.'; return; }
    trial = { pairs: list, at: 0, wins: new Map(), ties: 0, starred: what.value === STARRED, name: what.value.slice(1) };
    ask();
  };
  const usual = varying.find(name => !['prompt', 'seed'].includes(name) && distinct.get(name).length <= MOST_CHOICES);
  if (usual) what.value = '=' + usual;
  box.replaceChildren(make('h2', { textContent: 'Compare blind' }), make('p', { textContent: 'You hear pairs of clips that differ in one thing alone, without their names.' }),
    make('div', { className: 'choices' }, what, first, second), message, begin, ' ', closer(box));
  values();
  if (!box.open) box.showModal();
}
function closer(box) {
  const button = make('button', { type: 'button', textContent: 'Close' });
  button.onclick = () => box.close();
  return button;
}
get('blind').onclose = () => { trial = null; player.pause(); document.activeElement.blur(); };
get('compare').onclick = openBlind;
function ask() {
  const box = get('blind'), pair = trial.pairs[trial.at];
  trial.flip = random(2);
  trial.playing = null;
  const button = (text, action) => { const b = make('button', { type: 'button', textContent: text }); b.onclick = action; return b; };
  trial.buttons = [button('Play A (a)', () => hear(0)), button('Play B (b)', () => hear(1))];
  const prompt = pair.clips.every(clip => clip.text === pair.clips[0].text) ? pair.clips[0].text : '';
  box.replaceChildren(make('h2', { textContent: `Pair ${trial.at + 1} of ${trial.pairs.length}` }), make('p', { textContent: prompt }),
    make('div', { className: 'choices' }, ...trial.buttons),
    make('div', { className: 'choices' }, button('A is better (1)', () => vote(0)), button('No difference (0)', () => vote(null)), button('B is better (2)', () => vote(1))),
    button('Results so far', result), ' ', closer(box));
  hear(0);
}
function hear(side) {
  if (!trial || !trial.buttons) return;
  // Both sides go on from the same place, so that one can switch within a sound.
  const from = trial.playing === null || player.ended ? 0 : player.currentTime;
  trial.playing = side;
  trial.buttons.forEach((b, i) => b.setAttribute('aria-pressed', i === side));
  start(trial.pairs[trial.at].clips[side ^ trial.flip], from);
}
function vote(side) {
  const pair = trial.pairs[trial.at];
  const winner = side === null ? null : side ^ trial.flip;
  const seen = name => trial.wins.get(name) || trial.wins.set(name, { won: 0, of: 0 }).get(name);
  pair.sides.forEach((name, i) => { seen(name).of++; if (winner === i) seen(name).won++; });
  if (winner === null) trial.ties++;
  votes.push({ fact: trial.starred ? null : trial.name, clips: pair.clips.map(clip => clip.file), better: winner === null ? null : pair.clips[winner].file });
  save();
  trial.at++;
  if (trial.at < trial.pairs.length) ask(); else result();
}
function chance(won, lost) {  // two-sided sign test: how often a coin gives at least so uneven a result
  const count = won + lost;
  if (!count) return 1;
  let term = Math.pow(0.5, Math.min(count, 1000)), sum = 0;
  for (let k = 0; k <= Math.min(won, lost); k++) { sum += term; term *= (count - k) / (k + 1); }
  return Math.min(1, 2 * sum);
}
function result() {
  const box = get('blind');
  player.pause();
  trial.buttons = null;
  const rows = [...trial.wins].sort((a, b) => b[1].won / b[1].of - a[1].won / a[1].of);
  const table = make('table', {}, make('tr', {}, make('th', { textContent: trial.starred ? 'clip' : trial.name }), make('th', { textContent: 'better' }), make('th', { textContent: 'of' })));
  for (const [name, count] of rows) table.append(make('tr', {}, make('td', { textContent: name }), make('td', { textContent: count.won }), make('td', { textContent: count.of })));
  const told = make('p', { textContent: `No difference: ${trial.ties}.` });
  if (!trial.starred && rows.length === 2) told.textContent += ` A coin would give so uneven a result in ${(100 * chance(rows[0][1].won, rows[1][1].won)).toPrecision(2)}% of cases.`;
  const keep = make('button', { type: 'button', textContent: 'Save all votes' });
  keep.onclick = () => download('votes.json', JSON.stringify(votes, null, 1));
  const parts = [make('h2', { textContent: 'Result' }), table, told, keep, ' '];
  if (trial.at < trial.pairs.length) { const on = make('button', { type: 'button', textContent: 'Go on' }); on.onclick = ask; parts.push(on, ' '); }
  box.replaceChildren(...parts, closer(box));
}

// Keys
const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1), ' ': toggle,
  ArrowLeft: () => { player.currentTime = Math.max(0, player.currentTime - 1); },
  ArrowRight: () => { player.currentTime += 1; },
  s: () => toggleStar(current), l: () => { get('loop').click(); }, '/': () => get('filter').focus(),
  c: openBlind, '?': () => get('keys').showModal(),
  Enter: () => { const clip = order.find(c => c.card === document.activeElement); if (clip) choose(clip, true); },
};
const BLIND_KEYS = { a: () => hear(0), b: () => hear(1), 1: () => vote(0), 2: () => vote(1), 0: () => vote(null) };
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target, typing = target.matches('input:not([type=checkbox]), select');
  if (typing) { if (event.key === 'Escape') target.blur(); return; }
  if (get('keys').open) return;
  if (get('blind').open) {
    if (trial && trial.buttons && BLIND_KEYS[event.key]) { event.preventDefault(); BLIND_KEYS[event.key](); }
    return;
  }
  if ((event.key === ' ' || event.key === 'Enter') && target.matches('button, a, input')) return;
  const action = KEYS[event.key];
  if (action) { if (event.key !== 'Enter') event.preventDefault(); action(); }
});

try {
  const earlier = JSON.parse(sessionStorage.getItem(place) || '{}');
  get('filter').value = earlier.filter || '';
  if ([...get('sort').options].some(option => option.value === earlier.sort)) get('sort').value = earlier.sort;
} catch { /* not here */ }
list();
document.documentElement.dataset.ready = Math.round(performance.now());
})();
