// One player for all sounds: loops without a gap, and switches between two sounds at the same place.

import { sound } from './api.js';

export class Player {
  /** @param changed called with the item, its position and length in seconds, and whether it plays */
  constructor(changed) {
    this.changed = changed;
    this.item = null;  // {path, title}
    this.loop = false;
    this.playing = false;
    this.decoded = new Map();
    this.start = 0;
  }

  get length() { return this.buffer?.duration || 0; }

  get position() {
    if (!this.playing) return this.start;
    const passed = this.context.currentTime - this.began;
    return this.loop ? passed % this.length : Math.min(passed, this.length);
  }

  /** Play an item from a place; false if something else was asked for in the meantime. */
  async play(item, from = 0) {
    const ticket = this.ticket = {};
    this.context ??= new AudioContext();
    this.context.resume();
    const buffer = await this.load(item);
    if (this.ticket !== ticket) return false;
    this.silence();
    this.item = item;
    this.buffer = buffer;
    const at = from < buffer.duration ? from : 0;
    this.source = new AudioBufferSourceNode(this.context, { buffer, loop: this.loop });
    this.source.connect(this.context.destination);
    this.source.onended = event => { if (event.target === this.source) this.stop(0); };
    this.source.start(0, at);
    this.began = this.context.currentTime - at;
    this.playing = true;
    this.follow();
    return true;
  }

  async load(item) {
    const address = `${item.path}/audio`;
    if (!this.decoded.has(address)) {
      const coming = sound(address).then(content => this.context.decodeAudioData(content.slice(0)));
      coming.catch(() => this.decoded.delete(address));
      this.decoded.set(address, coming);
      if (this.decoded.size > 8) this.decoded.delete(this.decoded.keys().next().value);
    }
    return this.decoded.get(address);
  }

  silence() {
    if (!this.source) return;
    this.source.onended = null;
    this.source.stop();
    this.source.disconnect();
    this.source = null;
  }

  stop(at = this.position) {
    this.start = at;
    this.playing = false;
    this.ticket = null;
    this.silence();
    this.tell();
  }

  toggle(item) {
    if (this.playing && (!item || item.path === this.item?.path)) { this.stop(); return Promise.resolve(); }
    const chosen = item || this.item;
    if (!chosen) return Promise.resolve();
    return this.play(chosen, chosen.path === this.item?.path ? this.start : 0);
  }

  seek(seconds) {
    if (!this.item) return;
    const at = Math.max(0, Math.min(this.length, seconds));
    if (this.playing) this.play(this.item, at);
    else { this.start = at; this.tell(); }
  }

  setLoop(on) {
    const at = this.position;
    this.loop = on;
    if (this.playing) this.play(this.item, at);
  }

  follow() {
    cancelAnimationFrame(this.frame);
    this.tell();
    if (this.playing) this.frame = requestAnimationFrame(() => this.follow());
  }

  tell() { this.changed(this.item, this.position, this.length, this.playing); }
}
