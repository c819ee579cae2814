// The page: models, the form, the history and the player together.

import { values } from './api.js';
import { get, numberOf, option } from './dom.js';
import { History } from './history.js';
import { listenToKeys } from './keys.js';
import { Player } from './player.js';
import { checkInputs, clearProblems, placeProblems, showProblem } from './problems.js';
import { showRecipe } from './recipe.js';
import { drawSeed, Settings } from './settings.js';
import { soundInput, useOf } from './sound_input.js';

const NARROW = matchMedia('(max-width:800px)');  // where the clips are below the form
const said = { text: '', lasting: '' };
function tell(text, lasting = false) {
  if (lasting) said.lasting = text; else said.text = text;
  get('now').textContent = said.lasting || said.text;
}

// The player
let current = null;  // the card that is chosen
const sides = { A: null, B: null };
const player = new Player((item, position, length, playing) => {
  get('play').textContent = playing ? '❚❚' : '▶';
  get('position').value = length ? position / length : 0;
  get('time').textContent = item ? `${position.toFixed(1)} / ${length.toFixed(1)} s` : '';
  for (const card of history.cards.values()) {
    const own = item?.path === card.path;
    if (own || card.heard) card.at(own ? position : null, own && playing);
    card.heard = own;
  }
});
async function hear(action, title) {
  try {
    if (await action() !== false && title) tell(title);
  } catch (error) {
    tell(`${title || 'the sound'} cannot be played: ${error.message}`);
  }
}
function choose(card) {
  current?.element.removeAttribute('aria-current');
  current = card;
  card?.element.setAttribute('aria-current', 'true');
}
function play(card) {
  choose(card);
  return hear(() => player.toggle(card.item), card.title);
}
function step(by) {
  const done = history.shown.filter(card => card.job.state === 'done');
  if (!done.length) return;
  const at = done.indexOf(current);
  const to = done[at < 0 ? 0 : Math.max(0, Math.min(done.length - 1, at + by))];
  choose(to);
  to.element.focus({ preventScroll: true });
  to.element.scrollIntoView({ block: 'nearest' });
  hear(() => player.play(to.item), to.title);
}
function take(card, side) {
  sides[side] = card;
  for (const other of history.cards.values()) other.sides?.forEach((mark, index) => mark.setAttribute('aria-pressed', sides['AB'[index]] === other));
  get('ab').disabled = !(sides.A && sides.B);
  tell(`${side}: ${card.title}`);
}
function switchSides() {
  if (!sides.A || !sides.B) { tell('mark two clips as A and B first'); return; }
  const to = current === sides.A ? 'B' : 'A';
  const from = player.playing ? player.position : 0;
  choose(sides[to]);
  hear(() => player.play(sides[to].item, from), `${to}: ${sides[to].title}`);
}
function toggleLoop() {
  player.setLoop(!player.loop);
  get('loop').setAttribute('aria-pressed', player.loop);
}

// What cards can do
const asSound = card => ({ id: card.job.id, title: card.title, seconds: card.job.seconds, path: card.path });
async function reuse(card, { withSound = true } = {}) {
  const { request } = card.job;
  if (!await showModel(request.model)) return false;
  clearProblems();
  settings.take(request);
  const [kind, id] = (withSound && useOf(request)) || ['start', null];
  const found = id ? await soundOf(id) : null;
  sound.take(found, kind, { seconds: request.extend ?? null, noise: request.init_noise_level ?? 0.7, marked: request.inpaint });
  settings.layLength();
  if (withSound) get('lock').checked = true;
  return true;
}
async function soundOf(id) {
  try {
    const sent = await values(`v1/uploads/${id}`);
    return { id, title: sent.name, seconds: sent.seconds, path: `v1/uploads/${id}` };
  } catch { /* no upload: a clip */ }
  try {
    const job = await values(`v1/jobs/${id}`);
    return { id, title: job.title, seconds: job.seconds, path: `v1/jobs/${id}` };
  } catch (error) { tell(error.message); return null; }
}
async function useAs(card, kind, options) {
  if (!await reuse(card, { withSound: false })) return;
  // What steered the clip itself is no setting of what is made of it.
  get('other').value = '';
  sound.take(asSound(card), kind, options);
  settings.layLength();
  sound.focus();
  get('sound-details').scrollIntoView({ block: 'nearest' });
}
function vary(card) {
  const { request } = card.job, mix = numberOf(get('vary-by')) ?? 0.3;
  // A clip that already lies between two noises is varied as a sound.
  const varied = request.to_seed === undefined ? () => ({ to_seed: drawSeed(), mix })
    : () => ({ init_audio: card.job.id, init_noise_level: Math.max(0.05, mix), seed: drawSeed(), to_seed: undefined, mix: undefined });
  const count = numberOf(get('count')) || 1;
  return send(Array.from({ length: count }, () => ({ ...request, ...varied(), title: card.job.title })));
}
const does = {
  play, side: take, vary, told: tell, reuse,
  seek: (card, at) => {
    if (player.item?.path === card.path) { player.seek(at); return; }
    choose(card);
    hear(() => player.play(card.item, at), card.title);
  },
  goOn: card => useAs(card, 'extend', { seconds: Math.round(card.job.seconds * 50) / 100 }),
  use: card => useAs(card, 'parts'),
  recipe: card => showRecipe(card, tell),
};

// The form
const sound = soundInput(get('sound'), () => settings?.layLength(), (item, from) => hear(() => player.toggle(item.path === player.item?.path && player.playing ? null : { ...item }), item.title));
let settings = null;
settings = new Settings(sound);
const history = new History(does, () => {
  get('stop').disabled = !history.active.length;
  const count = history.active.length;
  get('stop').textContent = count > 1 ? `Stop all ${count}` : 'Stop';
});

/** Ask for clips one after the other; whether all were taken. */
async function send(requests) {
  clearProblems();
  for (const request of requests) {
    try {
      history.add(await values('v1/generate', { method: 'POST', json: { ...request, job: true } }));
    } catch (error) {
      const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : '';
      if (error.status === 422 || error.status === 400) placeProblems(error.message);
      else get('problem').textContent = error.message + wait;
      return false;
    }
  }
  return true;
}
async function generate() {
  clearProblems();
  if (get('generate').disabled || !checkInputs()) return;
  let request;
  try { request = settings.request(); } catch (error) {
    showProblem(error.name, error.message);
    get('problem').textContent = 'Not generated: see what is marked.';
    return;
  }
  if (!get('lock').checked || get('seed').value === '') get('seed').value = drawSeed();
  const seed = numberOf(get('seed')), count = numberOf(get('count')) || 1;
  const taken = await send(Array.from({ length: count }, (_, index) => ({ ...request, seed: (seed + index) % 2 ** 31 })));
  if (taken && NARROW.matches) get('clips').firstElementChild.scrollIntoView({ block: 'start' });
}
get('form').onsubmit = event => { event.preventDefault(); generate(); };
const stopAll = () => history.active.forEach(card => card.cancel());
get('stop').onclick = stopAll;

// Models
const models = new Map();
async function loadModels() {
  const { models: told } = await values('v1/models');
  for (const model of told) models.set(model.name, model);
  const chosen = get('model').value;
  get('model').replaceChildren(...told.map(model => option(model.name, model.state === 'ready' ? model.name : `${model.name} (${model.state})`)));
  if (models.has(chosen)) get('model').value = chosen;
  return told;
}
async function showModel(name) {
  const model = models.get(name);
  if (model?.state !== 'ready') {
    get('generate').disabled = true;
    get('status').textContent = !model ? `the model ${name} is not served here` : model.state === 'failed' ? 'this model could not be loaded: the log says why' : 'the model is being loaded…';
    return false;
  }
  get('status').textContent = '';
  get('model').value = name;
  get('generate').disabled = false;
  if (settings.model !== model) settings.show(model, limits);
  return true;
}
get('model').onchange = () => { showModel(get('model').value); if (get('this-model').checked) history.list(); };

let limits = null;
async function begin() {
  limits = await values('v1/limits');
  history.list();
  for (;;) {
    const told = await loadModels();
    if (settings.model === null) await showModel(get('model').value);
    if (told.every(model => model.state !== 'loading')) break;
    await new Promise(resolve => setTimeout(resolve, 500));
  }
  if (settings.model === null) {
    const usable = [...models.values()].find(model => model.state === 'ready');
    if (usable) await showModel(usable.name);
  }
}

get('play').onclick = () => hear(() => player.toggle(player.playing ? null : current?.item ?? null), current?.title);
get('previous').onclick = () => step(-1);
get('next').onclick = () => step(1);
get('loop').onclick = toggleLoop;
get('ab').onclick = switchSides;
get('position').oninput = () => player.seek(get('position').value * player.length);
get('help').onclick = () => get('keys').showModal();
get('clips').addEventListener('focusin', event => {
  const card = history.cards.get(event.target.closest('article')?.dataset.id);
  if (card && card !== current) choose(card);
});
listenToKeys({
  generate, step, switchSides, toggleLoop, stop: stopAll,
  toggle: () => hear(() => player.toggle(player.playing ? null : current?.job.state === 'done' ? current.item : history.shown.find(card => card.job.state === 'done')?.item), current?.title),
  back: () => player.seek(player.position - 1),
  on: () => player.seek(player.position + 1),
  withCard: action => { if (current?.job.state === 'done') action(current); },
  star: () => current?.toggleStar(),
  take, does,
});
document.documentElement.dataset.ready = Math.round(performance.now());
begin().catch(error => { get('status').textContent = error.message; });
