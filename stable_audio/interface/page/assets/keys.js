// Keys of the page, where the focus is not in something that uses them.

import { get } from './dom.js';

const TYPED = 'input:not([type=checkbox]):not([type=range]), textarea, select, [contenteditable]';
const PRESSED = 'button, a, summary, input, select';

export function listenToKeys(page) {
  const keys = {
    ' ': page.toggle, j: () => page.step(1), k: () => page.step(-1), l: page.toggleLoop, x: page.switchSides,
    ArrowLeft: page.back, ArrowRight: page.on, s: page.star,
    a: () => page.withCard(card => page.take(card, 'A')), b: () => page.withCard(card => page.take(card, 'B')),
    v: () => page.withCard(page.does.vary), c: () => page.withCard(page.does.goOn), u: () => page.withCard(page.does.use),
    '.': page.stop,
    '/': () => get('search').focus(), '?': () => get('keys').showModal(),
  };
  document.addEventListener('keydown', event => {
    if (document.querySelector('dialog[open]')) return;
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter') { event.preventDefault(); page.generate(); return; }
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const { target } = event;
    if (target.matches(TYPED)) { if (event.key === 'Escape') target.blur(); return; }
    if (event.key === ' ' && target.matches(PRESSED)) return;
    if (event.key.startsWith('Arrow') && target.matches('input, [role=slider]')) return;
    const action = event.key === 'Enter' && target.matches('article') ? page.toggle : keys[event.key];
    if (action) { event.preventDefault(); action(); }
  });
}
