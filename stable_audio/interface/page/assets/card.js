// A job as a card: while it waits and runs, and its sound once it is done.

import { call, file, showPicture, values } from './api.js';
import { button, clock, make, option, save, shown } from './dom.js';
import { Wave } from './wave.js';

const FORMATS = ['wav', 'flac', 'mp3', 'ogg', 'opus'];
const QUIET = ['model', 'conditioning', 'seconds', 'title'];

const near = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); entry.target.draw?.(); }
}, { rootMargin: '400px' });

export class Card {
  /** @param does what can be done with it: play, seek, side, vary, goOn, use, reuse, recipe, removed, told */
  constructor(job, does) {
    this.does = does;
    this.element = make('article', { tabIndex: 0, data: { id: job.id } });
    this.element.draw = () => this.drawPictures();
    this.update(job);
  }

  get path() { return `v1/jobs/${this.job.id}`; }
  get title() { return this.job.title || `seed ${this.job.request.seed}`; }
  get item() { return { path: this.path, title: this.title }; }
  get active() { return this.job.state === 'queued' || this.job.state === 'running'; }

  update(job) {
    const same = this.job?.state === job.state;
    this.job = job;
    if (same && this.active) this.tellProgress();
    else if (same) this.tellStar();
    else this.build();
  }

  build() {
    const { job } = this;
    this.element.setAttribute('aria-label', `${this.title}, ${job.state}`);
    this.element.dataset.state = job.state;
    this.star = button('☆', () => this.toggleStar(), { title: 'Star (s)' });
    const head = make('div', { className: 'head' }, make('h2', { textContent: this.title }), this.star);
    const facts = make('p', { className: 'facts' }, ...this.facts());
    const body = this.active ? this.progress() : job.state === 'done' ? this.sound() : this.failure();
    this.element.replaceChildren(head, ...body, facts);
    this.tellStar();
  }

  facts() {
    const { job } = this, { request } = job;
    const named = { model: job.model, length: clock(job.seconds), seed: request.seed };
    for (const [key, value] of Object.entries(request)) {
      if (QUIET.includes(key) || key in named || value === null) continue;
      named[key.replaceAll('_', ' ')] = key === 'adapters' ? value.map(one => `${one.name} ${shown(one.strength ?? 1)}`).join(', ')
        : ['init_audio', 'inpaint_audio'].includes(key) ? value.slice(0, 8)
          : key === 'inpaint' && Array.isArray(value) ? value.map(([a, b]) => `${a.toFixed(2)}–${b.toFixed(2)} s`).join(', ') : shown(value);
    }
    const others = Object.entries(request.conditioning || {}).filter(([, value]) => value !== job.title);
    const parts = [...others, ...Object.entries(named)].flatMap(([name, value]) => [make('span', {}, `${name} `, make('b', { textContent: shown(value) })), ' ']);
    if (job.result?.clipped) parts.push(make('span', { className: 'bad', textContent: 'clipped', title: `peak ${shown(job.result.peak)}` }));
    return parts;
  }

  progress() {
    this.bar = make('progress', { max: 1, value: 0, aria: { label: `Progress of ${this.title}` } });
    this.state = make('p', { className: 'soft' });
    this.stop = button('Stop', () => this.cancel());
    this.stop.setAttribute('aria-label', `Stop ${this.title}`);
    this.tellProgress();
    return [this.bar, make('div', { className: 'row' }, this.state, this.stop)];
  }

  tellProgress() {
    const { job } = this;
    if (job.state === 'queued') {
      this.state.textContent = job.position ? `waiting: ${job.position} before it` : 'waiting: it is next';
      return;
    }
    this.bar.value = job.steps ? job.step / job.steps : 0;
    const left = job.seconds_left === null ? '' : `, ${clock(job.seconds_left)} left`;
    this.state.textContent = job.step < job.steps || !job.steps ? `step ${job.step} of ${job.steps}${left}` : 'being decoded…';
  }

  failure() {
    const { job } = this;
    return [make('p', { className: job.state === 'failed' ? 'bad' : 'soft', textContent: job.state === 'cancelled' ? 'stopped' : job.error || 'failed' }),
      make('div', { className: 'row' }, button('Settings', () => this.does.reuse(this)), button('Remove', () => this.remove()))];
  }

  sound() {
    this.wave = new Wave(`Position in ${this.title}`, { seek: at => this.does.seek(this, at) });
    this.picture = make('img', { alt: `Spectrogram of ${this.title}`, className: 'spectrogram', width: 512, height: 96, decoding: 'async' });
    this.playButton = button('▶', () => this.does.play(this), { className: 'play' });
    this.playButton.setAttribute('aria-label', `Play ${this.title}`);
    this.sides = ['A', 'B'].map(side => button(side, () => this.does.side(this, side), { title: `Take as ${side} (${side.toLowerCase()})`, className: 'side' }));
    const format = make('select', { aria: { label: 'Format' } }, ...FORMATS.map(name => option(name)));
    const load = button('Download', () => this.download(format.value));
    const row = make('div', { className: 'row' }, this.playButton, ...this.sides, make('span', { className: 'grow' }), load, format);
    const acts = make('div', { className: 'row acts' },
      button('Vary', () => this.does.vary(this), { title: 'The same from noise close to its own (v)' }),
      button('Continue', () => this.does.goOn(this), { title: 'Let it go on (c)' }),
      button('Use as input', () => this.does.use(this), { title: 'Start from it, or make parts of it anew (u)' }),
      button('Settings', () => this.does.reuse(this), { title: 'Put its settings into the form' }),
      button('Recipe', () => this.does.recipe(this)), button('Remove', () => this.remove()));
    near.observe(this.element);
    return [make('div', { className: 'picture' }, this.wave.canvas, this.picture), row, acts];
  }

  async drawPictures() {
    try {
      await Promise.all([
        values(`${this.path}/peaks?parts=400`).then(peaks => this.wave.show(peaks)),
        showPicture(this.picture, `${this.path}/spectrogram.png?width=512&height=96`),
      ]);
    } catch (error) { this.does.told(error.message); }
  }

  /** Show where the player is; null: elsewhere. */
  at(seconds, playing) {
    if (!this.wave) return;
    this.playButton.textContent = playing ? '❚❚' : '▶';
    if (seconds !== null) this.wave.place(seconds);
  }

  tellStar() {
    const on = this.job.starred;
    this.star.textContent = on ? '★' : '☆';
    this.star.className = on ? 'star on' : 'star';
    this.star.setAttribute('aria-pressed', on);
    this.star.setAttribute('aria-label', `Star ${this.title}`);
  }

  async toggleStar() {
    await this.attempt(async () => this.update(await values(this.path, { method: 'PATCH', json: { starred: !this.job.starred } })));
  }

  async cancel() {
    this.stop.disabled = true;
    await this.attempt(async () => this.update(await values(`${this.path}/cancel`, { method: 'POST' })));
  }

  async remove() {
    if (this.job.starred && !confirm(`“${this.title}” is starred. Remove it?`)) return;
    await this.attempt(async () => {
      await call(this.path, { method: 'DELETE' });
      this.does.removed(this);
    });
  }

  async download(format) {
    await this.attempt(async () => {
      const [name, content] = await file(`${this.path}/audio?format=${format}&download=true`);
      save(name, content);
      this.does.told(`${name} saved`);
    });
  }

  async attempt(action) {
    try { await action(); } catch (error) { this.does.told(error.message); }
  }
}
