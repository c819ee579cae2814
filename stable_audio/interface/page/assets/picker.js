// Choosing a sound: a file of this machine, by button or by dropping it, or one of the history.

import { upload } from './api.js';
import { button, clock, make } from './dom.js';

/**
 * @param label what the sound is for
 * @param change called with the sound {id, title, seconds, path} or null
 */
export function soundPicker(label, change) {
  const input = make('input', { type: 'file', accept: 'audio/*,.flac,.ogg,.opus,.aiff,.m4a', className: 'said', tabIndex: -1, aria: { label } });
  const told = make('span', { className: 'soft' }, 'or drop one here');
  const clear = button('Remove', () => set(null), { hidden: true });
  const choose = button('Choose a sound…', () => input.click());
  const problem = make('p', { className: 'bad', role: 'alert' });
  choose.setAttribute('aria-label', `${label}: choose a sound`);
  const element = make('div', { className: 'picker' }, choose, input, clear, told, problem);
  let current = null;

  function set(sound) {
    current = sound;
    input.value = '';
    problem.textContent = '';
    told.textContent = sound ? `${sound.title}${sound.seconds ? `, ${clock(sound.seconds)}` : ''}` : 'or drop one here';
    clear.hidden = !sound;
    change(sound);
  }
  async function send(file) {
    if (!file) return;
    told.textContent = `${file.name} is being sent…`;
    problem.textContent = '';
    try {
      const sent = await upload(file);
      set({ id: sent.id, title: sent.name || file.name, seconds: sent.seconds, path: `v1/uploads/${sent.id}` });
    } catch (error) {
      set(null);
      problem.textContent = `${file.name}: ${error.message}`;
    }
  }
  input.onchange = () => send(input.files[0]);
  element.ondragover = event => { event.preventDefault(); element.classList.add('over'); };
  element.ondragleave = () => element.classList.remove('over');
  element.ondrop = event => {
    event.preventDefault();
    element.classList.remove('over');
    send(event.dataTransfer.files[0]);
  };
  return { element, set, get sound() { return current; } };
}
