// What determines a sound, to read, copy and save.

import { values } from './api.js';
import { button, get, make, save, shown } from './dom.js';

export async function showRecipe(card, told) {
  let recipe;
  try { recipe = await values(`${card.path}/recipe`); } catch (error) { told(error.message); return; }
  const text = JSON.stringify(recipe, null, 2);
  const box = get('recipe'), name = `${card.job.id.slice(0, 8)}.json`;
  const rows = Object.entries({ seed: recipe.recipe.seed, seconds: recipe.recipe.seconds, ...recipe.recipe.conditioning, ...recipe.recipe.sampling })
    .filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([key, value]) => [make('dt', { textContent: key.replaceAll('_', ' ') }), make('dd', { textContent: shown(value) })]);
  const note = make('span', { className: 'soft', role: 'status' });
  const copy = button('Copy', async () => {
    try { await navigator.clipboard.writeText(text); note.textContent = ' copied'; } catch { note.textContent = ' the browser does not allow it: save it'; }
  });
  box.replaceChildren(
    make('h2', { textContent: card.title }),
    make('dl', { className: 'facts' }, ...rows),
    make('p', { className: 'soft' }, 'The same sound again: ', make('code', { textContent: `stable-audio generate --from-json ${name} --ckpt-path ${recipe.recipe.checkpoint.path}` })),
    make('details', {}, make('summary', { textContent: 'All of it' }), make('pre', { textContent: text, tabIndex: 0 })),
    make('div', { className: 'row' }, button('Save', () => save(name, new Blob([text], { type: 'application/json' }))), copy, note,
      make('span', { className: 'grow' }), button('Close', () => box.close())));
  box.showModal();
}
