'use strict';
// Charts on canvas: lines over steps, and the loss by noise level as a heat map.
const charts = (() => {
const COLOURS = ['#3b82f6', '#f97316', '#22a06b', '#d946ef', '#eab308', '#06b6d4', '#ef4444', '#8b5cf6', '#84cc16', '#a8765a'];
const HEAT = [[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]];
const LEFT = 46, BOTTOM = 16, TOP = 6, RIGHT = 6;
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function number(value) {
  if (value === null || value === undefined || typeof value !== 'number') return '–';
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return size >= 1000 ? Math.round(value).toLocaleString('en') : String(+value.toPrecision(4));
}
function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + 'M';
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + 'k';
  return size !== 0 && size < 1e-2 ? value.toExponential(0) : String(+value.toPrecision(3));
}
function surface(canvas) {
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(box.width * ratio));
  canvas.height = Math.max(1, Math.round(box.height * ratio));
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  context.clearRect(0, 0, box.width, box.height);
  return { context, width: box.width, height: box.height };
}
function smoothed(values, weight) {
  let sum = 0, mass = 0;
  return values.map(value => { sum = weight * sum + (1 - weight) * value; mass = weight * mass + 1 - weight; return sum / mass; });
}
function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count, power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= rough) || rough;
  const list = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) list.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return list;
}
// Lowest and highest value to draw: all but a few at the ends that lie far from the others (value_range in run_curves.py).
const FEWEST = 4, FEW = 10, SHARE = 0.02, FAR = 2, VERY_FAR = 100;
function valueRange(values) {
  const sorted = [...values].sort((a, b) => a - b), count = sorted.length, last = count - 1;
  const cut = count >= FEWEST ? Math.ceil(SHARE * count) : 0, low = sorted[cut], high = sorted[last - cut];
  const reach = (count >= FEW ? FAR : VERY_FAR) * (high - low);
  if (!(reach > 0)) return [sorted[0], sorted[last]];
  const near = sorted.filter(value => value >= low - reach && value <= high + reach);
  return [near[0], near[near.length - 1]];
}
// The values in that range, in their order.
function usual(values) { const [low, high] = valueRange(values); return values.filter(value => value >= low && value <= high).sort((a, b) => a - b); }
function quantile(sorted, share) { return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))]; }

// The axis of steps below a chart; returns where along it a step is.
function stepAxis({ context, width, height }, list) {
  const first = Math.min(...list.map(line => line.steps[0])), last = Math.max(...list.map(line => line.steps[line.steps.length - 1]));
  const wide = width - LEFT - RIGHT, x = step => LEFT + wide * (last > first ? (step - first) / (last - first) : 0.5);
  context.font = '11px system-ui,sans-serif';
  context.fillStyle = css('--soft');
  context.textAlign = 'center';
  for (const tick of ticks(first, last, Math.max(2, width / 90))) context.fillText(short(tick), Math.min(width - 16, Math.max(LEFT, x(tick))), height - 3);
  return { first, last, x, stepAt: offset => first + (offset - LEFT) / Math.max(1, wide) * (last - first) };
}
// Tell of what the pointer is over.
function onHover(figure, canvas, told) {
  const output = figure.querySelector('output');
  canvas.onpointermove = event => { output.textContent = told(event.offsetX, event.offsetY); };
  canvas.onpointerleave = () => { output.textContent = ''; };
}

// Lines: [{ label, colour, steps, mean, low, high }]
function lines(figure, list, { log = false, smooth = 0, marks = false } = {}) {
  const canvas = figure.querySelector('canvas');
  const area = surface(canvas), { context, width, height } = area;
  const usable = list.map(line => {
    const keep = line.mean.map((value, i) => !log || (value > 0 && line.low[i] > 0));
    const pick = values => values.filter((_, i) => keep[i]);
    return { ...line, steps: pick(line.steps), mean: pick(line.mean), low: pick(line.low), high: pick(line.high) };
  }).filter(line => line.steps.length);
  const legend = figure.querySelector('.legend');
  legend.replaceChildren(...list.map(line => {
    const item = document.createElement('span'), key = document.createElement('i');
    key.style.background = line.colour;
    item.append(key, `${line.label} ${number(line.latest)}`);
    return item;
  }));
  if (!usable.length) return;
  const scaled = value => log ? Math.log10(value) : value;
  const all = usual(usual(usable.flatMap(line => line.mean)).map(scaled));
  const lowest = all[0], highest = all[all.length - 1];
  let low = lowest, high = quantile(all, all.length > 60 ? 0.985 : 1);
  if (!(high > low)) { const pad = Math.abs(low) * 0.05 || 1e-6; low -= pad; high += pad; }
  const margin = 0.05 * (high - low);
  low -= margin; high += margin;
  const { first, last, x, stepAt } = stepAxis(area, usable);
  const y = value => TOP + (height - TOP - BOTTOM) * (1 - (scaled(value) - low) / (high - low));
  const [least, most] = log ? [10 ** lowest, 10 ** highest] : [lowest, highest];
  const drawn = value => Math.min(most, Math.max(least, value));
  context.strokeStyle = css('--line');
  context.textAlign = 'right';
  for (const tick of ticks(low, high, 4)) {
    const value = log ? Math.pow(10, tick) : tick, at = y(value);
    context.beginPath(); context.moveTo(LEFT, at); context.lineTo(width - RIGHT, at); context.stroke();
    context.fillText(short(value), LEFT - 5, at + 4);
  }
  context.save();
  context.beginPath(); context.rect(LEFT, 0, width - LEFT, height - BOTTOM + 1); context.clip();
  for (const line of usable) {
    const band = line.high.some((value, i) => value > line.low[i]);
    if (band && usable.length < 5) {
      context.globalAlpha = 0.14; context.fillStyle = line.colour; context.beginPath();
      line.steps.forEach((step, i) => context.lineTo(x(step), y(line.high[i])));
      for (let i = line.steps.length - 1; i >= 0; i--) context.lineTo(x(line.steps[i]), y(line.low[i]));
      context.fill();
    }
    context.globalAlpha = 1; context.strokeStyle = line.colour; context.lineWidth = 1.6; context.beginPath();
    smoothed(line.mean.map(drawn), line.steps.length > 8 ? smooth : 0).forEach((value, i) => context.lineTo(x(line.steps[i]), y(value)));
    context.stroke();
    if (marks || line.steps.length < 25) {
      context.fillStyle = line.colour;
      line.mean.forEach((value, i) => { context.beginPath(); context.arc(x(line.steps[i]), y(drawn(value)), 2.2, 0, 7); context.fill(); });
    }
  }
  context.restore();
  onHover(figure, canvas, offset => {
    const at = stepAt(offset), near = usable.map(line => number(line.mean[nearest(line.steps, at)]));
    return `step ${Math.round(Math.min(last, Math.max(first, at))).toLocaleString('en')}: ${near.join(' · ')}`;
  });
}
function nearest(steps, at) {
  let low = 0, high = steps.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (steps[middle] < at) low = middle + 1; else high = middle; }
  return low > 0 && at - steps[low - 1] < steps[low] - at ? low - 1 : low;
}
function heatColour(share) {
  const at = Math.min(1, Math.max(0, share)) * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(at));
  return `rgb(${HEAT[i].map((value, c) => Math.round(value + (HEAT[i + 1][c] - value) * (at - i))).join(',')})`;
}
// Rows: [{ label, steps, mean }], from low to high noise
function heat(figure, rows, { own = true } = {}) {
  const canvas = figure.querySelector('canvas');
  const area = surface(canvas), { context, width, height } = area;
  const present = rows.filter(row => row.steps.length);
  figure.querySelector('.legend').textContent = `dark: low, light: high${own ? ', within each level' : ''}`;
  if (!present.length) return;
  const { first, last, x, stepAt } = stepAxis(area, present);
  const tall = (height - TOP - BOTTOM) / rows.length;
  const scale = values => {
    const logs = usual(usual(values.filter(value => value > 0)).map(Math.log));
    const low = quantile(logs, 0.01), high = quantile(logs, 0.97);
    return value => value > 0 && high > low ? (Math.log(value) - low) / (high - low) : 0.5;
  };
  const common = scale(present.flatMap(row => row.mean));
  rows.forEach((row, index) => {
    const top = TOP + (rows.length - 1 - index) * tall, share = own && row.mean.length ? scale(row.mean) : common;
    context.fillStyle = css('--soft'); context.textAlign = 'right';
    context.fillText(row.label, LEFT - 5, top + tall / 2 + 4);
    for (let i = 0; i < row.steps.length; i++) {
      const from = i === 0 ? row.steps[0] : (row.steps[i - 1] + row.steps[i]) / 2;
      const to = i === row.steps.length - 1 ? row.steps[i] : (row.steps[i] + row.steps[i + 1]) / 2;
      const left = last > first ? x(from) : LEFT, right = last > first ? x(to) : width - RIGHT;
      context.fillStyle = heatColour(share(row.mean[i]));
      context.fillRect(left, top, Math.max(1, right - left + 0.5), tall - 1);
    }
  });
  onHover(figure, canvas, (offset, down) => {
    const row = rows[rows.length - 1 - Math.floor((down - TOP) / tall)], step = stepAt(offset);
    if (!row || !row.steps.length || step < first || step > last) return '';
    const i = nearest(row.steps, step);
    return `sigma ${row.label}, step ${Math.round(row.steps[i]).toLocaleString('en')}: ${number(row.mean[i])}`;
  });
}
function spark(canvas, values, colour) {
  const { context, width, height } = surface(canvas);
  if (values.length < 2) return;
  const sorted = usual(values), low = sorted[0], high = quantile(sorted, 0.95);
  context.strokeStyle = colour; context.lineWidth = 1.3; context.beginPath();
  values.forEach((value, i) => context.lineTo(1 + (width - 2) * i / (values.length - 1), height - 2 - (height - 4) * Math.min(1, Math.max(0, high > low ? (value - low) / (high - low) : 0.5))));
  context.stroke();
}
return { COLOURS, lines, heat, spark, number, valueRange };
})();
