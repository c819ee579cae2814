// The history as cards, the newest first, and news of those that are at work.

import { values } from './api.js';
import { get } from './dom.js';
import { Card } from './card.js';

const PAGE = 24;
const EVERY = 350;  // milliseconds between looks at jobs at work

export class History {
  /** @param does as for Card; `changed` is called when jobs begin or end */
  constructor(does, changed) {
    this.does = { ...does, removed: card => this.drop(card) };
    this.changed = changed;
    this.cards = new Map();
    this.before = null;
    this.watching = false;
    let waiting = 0;
    get('search').oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => this.list(), 150); };
    get('starred').onchange = get('this-model').onchange = () => this.list();
    get('more').onclick = () => this.list(this.before);
  }

  /** Cards in the order in which they are shown. */
  get shown() { return [...get('clips').children].map(element => this.cards.get(element.dataset.id)); }
  get active() { return [...this.cards.values()].filter(card => card.active); }

  query() {
    const query = new URLSearchParams({ limit: PAGE });
    if (get('search').value.trim()) query.set('search', get('search').value.trim());
    if (get('starred').checked) query.set('starred', 'true');
    if (get('this-model').checked) query.set('model', get('model').value);
    return query;
  }

  /** Show the jobs that are asked for; those before a time besides what is shown. */
  async list(before = null) {
    const ticket = this.ticket = {};
    const query = this.query();
    if (before !== null) query.set('before', before);
    let answer;
    try { answer = await values(`v1/jobs?${query}`); } catch (error) { this.does.told(error.message); return; }
    if (this.ticket !== ticket) return;
    const cards = answer.jobs.map(job => this.card(job));
    const elements = cards.map(card => card.element);
    if (before === null) get('clips').replaceChildren(...elements); else get('clips').append(...elements);
    this.before = answer.before;
    get('more').hidden = answer.before === null;
    this.tell();
    this.watch();
  }

  /** The card of a job, with what is new of it. */
  card(job) {
    const card = this.cards.get(job.id);
    if (card) card.update(job); else this.cards.set(job.id, new Card(job, this.does));
    return this.cards.get(job.id);
  }

  /** Show a new job at the top. */
  add(job) {
    const card = this.card(job);
    get('clips').prepend(card.element);
    this.tell();
    this.watch();
    return card;
  }

  drop(card) {
    this.cards.delete(card.job.id);
    card.element.remove();
    this.tell();
  }

  tell() {
    const count = get('clips').childElementCount;
    get('found').textContent = count ? `${count}${this.before === null ? '' : '+'} ${count === 1 ? 'clip' : 'clips'}` : '';
    const narrowed = get('search').value.trim() || get('starred').checked || get('this-model').checked;
    get('empty').hidden = count > 0;
    get('empty').textContent = narrowed ? 'Nothing in the history is like that.' : 'What you generate appears here, and stays.';
    this.changed();
  }

  /** Follow the jobs at work until there are none. */
  async watch() {
    if (this.watching) return;
    this.watching = true;
    while (this.active.length) {
      await new Promise(resolve => setTimeout(resolve, EVERY));
      try {
        await this.look();
        this.does.told('', true);
      } catch (error) { this.does.told(error.message, true); }
    }
    this.watching = false;
  }

  async look() {
    const asked = await Promise.all(['running', 'queued'].map(state => values(`v1/jobs?state=${state}&limit=500`)));
    const current = new Map(asked.flatMap(answer => answer.jobs).map(job => [job.id, job]));
    for (const card of this.active) {
      const job = current.get(card.job.id) || await values(card.path).catch(error => gone(error));
      if (job) card.update(job); else this.drop(card);
      if (job?.state === 'done') this.does.told(`${card.title} is done`);
    }
    this.changed();
  }
}

/** A job that was removed elsewhere is no trouble. */
function gone(error) {
  if (error.status !== 404) throw error;
  return null;
}
