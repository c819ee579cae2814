// A waveform on a canvas: with a cursor, and with parts that can be marked by mouse, touch and keyboard.

import { make } from './dom.js';

const EDGE = 12;  // pixels from an end of a part at which it is taken hold of
const LEAST = 0.01;  // seconds of a part

/** Sorted, within the sound, without overlaps. */
export function joined(parts, seconds) {
  const sorted = parts.map(([a, b]) => [Math.max(0, Math.min(a, b)), Math.min(seconds, Math.max(a, b))])
    .filter(([a, b]) => b - a >= LEAST).sort((p, q) => p[0] - q[0]);
  const whole = [];
  for (const part of sorted) {
    const last = whole.at(-1);
    if (last && part[0] <= last[1]) last[1] = Math.max(last[1], part[1]); else whole.push(part);
  }
  return whole.map(part => part.map(value => Math.round(value * 1000) / 1000));
}

export class Wave {
  /**
   * @param label for screen readers
   * @param seek called with seconds when the cursor is moved
   * @param marked called with the parts when they change; without it, none can be marked
   */
  constructor(label, { seek = () => {}, marked = null } = {}) {
    this.canvas = make('canvas', { className: 'wave', tabIndex: 0, role: 'slider', aria: { label, valuemin: 0 } });
    this.seek = seek;
    this.marked = marked;
    this.parts = [];
    this.cursor = 0;
    this.begun = null;  // where a part began that the keyboard marks
    this.peaks = null;
    this.held = null;
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
    this.canvas.addEventListener('pointerdown', event => this.down(event));
    this.canvas.addEventListener('pointermove', event => this.moved(event));
    this.canvas.addEventListener('pointerup', event => this.up(event));
    this.canvas.addEventListener('pointercancel', () => { this.held = null; this.draw(); });
    this.canvas.addEventListener('keydown', event => this.key(event));
  }

  get seconds() { return this.peaks?.seconds || 0; }

  show(peaks) {
    this.peaks = peaks;
    this.canvas.setAttribute('aria-valuemax', peaks.seconds.toFixed(2));
    this.place(0);
  }

  place(seconds) {
    this.cursor = Math.max(0, Math.min(this.seconds, seconds));
    this.canvas.setAttribute('aria-valuenow', this.cursor.toFixed(2));
    const inside = this.parts.some(part => this.within(part)) ? ', in a part' : '';
    const begun = this.begun === null ? '' : `, a part begins at ${this.begun.toFixed(2)} s`;
    this.canvas.setAttribute('aria-valuetext', `${this.cursor.toFixed(2)} s of ${this.seconds.toFixed(2)} s${inside}${begun}`);
    this.draw();
  }

  setParts(parts, tell = false) {
    this.parts = joined(parts, this.seconds || Infinity);
    if (tell) this.marked?.(this.parts);
    this.draw();
  }

  /** Whether the cursor is in a part, whose ends are rounded to milliseconds. */
  within([a, b]) { return a - 0.001 <= this.cursor && this.cursor <= b + 0.001; }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.seconds * Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
  }

  down(event) {
    if (!this.seconds || event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.at(event), near = EDGE * this.seconds / this.canvas.clientWidth;
    this.held = { from: at, others: this.parts, part: null };
    if (!this.marked) return;
    for (const part of this.parts) {
      const others = this.parts.filter(one => one !== part);
      if (Math.abs(part[0] - at) < near) { this.held = { from: part[1], others, part }; return; }
      if (Math.abs(part[1] - at) < near) { this.held = { from: part[0], others, part }; return; }
    }
    const inside = this.parts.find(([a, b]) => a < at && at < b);
    if (inside) this.held = { from: at, others: this.parts.filter(one => one !== inside), part: inside, shifts: inside };
  }

  moved(event) {
    if (!this.held) return;
    const at = this.at(event), { from, shifts } = this.held;
    if (!this.marked) { this.place(at); this.seek(at); return; }
    if (!this.held.part && Math.abs(at - from) * this.canvas.clientWidth < 4 * this.seconds) return;
    if (shifts) {
      const by = Math.max(-shifts[0], Math.min(this.seconds - shifts[1], at - from));
      this.held.part = [shifts[0] + by, shifts[1] + by];
      if (Math.abs(by) * this.canvas.clientWidth >= 4 * this.seconds) this.held.changed = true;
    } else {
      this.held.part = [from, at];
      this.held.changed = true;
    }
    this.draw();
  }

  up(event) {
    if (!this.held) return;
    const { others, part, changed } = this.held;
    this.held = null;
    if (this.marked && changed) { this.setParts([...others, part], true); return; }
    this.place(this.at(event));
    this.seek(this.cursor);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.seconds) return;
    const by = event.shiftKey ? 0.01 : Math.max(0.01, this.seconds / 50);
    const places = { ArrowLeft: this.cursor - by, ArrowRight: this.cursor + by, Home: 0, End: this.seconds };
    if (event.key in places) {
      this.place(places[event.key]);
      this.seek(this.cursor);
    } else if (this.marked && event.key === 'Enter') {
      this.mark();
    } else if (this.marked && (event.key === 'Delete' || event.key === 'Backspace')) {
      this.setParts(this.parts.filter(part => !this.within(part)), true);
      this.place(this.cursor);
    } else if (event.key === 'Escape' && this.begun !== null) {
      this.begun = null;
      this.place(this.cursor);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Begin a part at the cursor, or end the one that was begun. */
  mark() {
    if (this.begun === null) this.begun = this.cursor;
    else {
      const part = [this.begun, this.cursor];
      this.begun = null;
      this.setParts([...this.parts, part], true);
    }
    this.place(this.cursor);
  }

  draw() {
    const { canvas, peaks } = this;
    const scale = devicePixelRatio || 1, width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
    if (!width || !height) return;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext('2d'), style = getComputedStyle(canvas);
    const colour = name => style.getPropertyValue(name).trim();
    if (!peaks) return;
    const at = seconds => width * seconds / this.seconds;
    const parts = this.held?.part ? [...this.held.others, this.held.part] : [...this.parts];
    if (this.begun !== null) parts.push([this.begun, this.cursor]);
    context.fillStyle = colour('--part');
    for (const [a, b] of parts) context.fillRect(at(Math.min(a, b)), 0, Math.abs(at(b) - at(a)), height);
    context.fillStyle = colour('--wave');
    const count = peaks.minimum.length, step = Math.max(1, width / count);
    for (let x = 0; x < width; x += step) {
      const first = Math.floor(x / width * count), end = Math.max(first + 1, Math.ceil((x + step) / width * count));
      const low = Math.min(...peaks.minimum.slice(first, end)), high = Math.max(...peaks.maximum.slice(first, end));
      const top = (1 - Math.min(1, high)) * height / 2, bottom = (1 - Math.max(-1, low)) * height / 2;
      context.fillRect(x, top, Math.max(1, step - (step > 2 ? 1 : 0)), Math.max(scale, bottom - top));
    }
    context.fillStyle = colour('--mark');
    for (const [a, b] of parts) for (const end of [a, b]) context.fillRect(at(end) - scale, 0, 2 * scale, height);
    context.fillStyle = colour('--head');
    context.fillRect(Math.min(width - 2 * scale, at(this.cursor)), 0, 2 * scale, height);
  }
}
