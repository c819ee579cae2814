// Calls of the service. Everything goes through fetch, because pictures and players send no token.

import { get, make } from './dom.js';

const PLACE = 'stable-audio token';
const KEPT_SOUNDS = 24;
let token = sessionStorage.getItem(PLACE) || '';
let asking = null;

export class ServiceProblem extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The answer of the service; throws ServiceProblem with its sentence. */
export async function call(path, { method = 'GET', json, body, signal } = {}) {
  const headers = json === undefined ? {} : { 'Content-Type': 'application/json' };
  const sent = token;
  if (sent) headers.Authorization = `Bearer ${sent}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json) });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ServiceProblem(0, 'the service does not answer: is it still running?');
  }
  if (answer.status === 401) {
    if (token === sent) await askToken(sent !== '');
    return call(path, { method, json, body, signal });
  }
  if (!answer.ok) throw new ServiceProblem(answer.status, await sentence(answer), Number(answer.headers.get('Retry-After')) || null);
  return answer;
}

export const values = async (path, options) => (await call(path, options)).json();

async function sentence(answer) {
  try {
    const told = (await answer.json()).detail;
    if (typeof told === 'string') return told;
  } catch { /* no JSON: of a proxy, perhaps */ }
  return `the service answered with status ${answer.status}`;
}

/** Ask once, whoever needs it. */
function askToken(again) {
  asking ??= new Promise(resolve => {
    const box = get('token');
    const input = make('input', { type: 'password', id: 'token-text', autocomplete: 'current-password', required: true });
    const form = make('form', { method: 'dialog' },
      make('h2', { textContent: 'Token' }),
      make('p', { textContent: again ? 'The service does not know this token.' : 'This service asks for a token.' }),
      make('label', { htmlFor: 'token-text', textContent: 'Token ' }), input, ' ', make('button', { textContent: 'Use it' }));
    box.replaceChildren(form);
    box.oncancel = event => event.preventDefault();
    box.onclose = () => {
      token = input.value.trim();
      sessionStorage.setItem(PLACE, token);
      asking = null;
      resolve();
    };
    box.showModal();
  });
  return asking;
}

// Sounds and pictures by address, the latest ones kept.
const sounds = new Map();
export function sound(path) {
  if (!sounds.has(path)) {
    const coming = call(path).then(answer => answer.arrayBuffer());
    coming.catch(() => sounds.delete(path));
    sounds.set(path, coming);
    if (sounds.size > KEPT_SOUNDS) sounds.delete(sounds.keys().next().value);
  }
  return sounds.get(path);
}

export async function showPicture(image, path) {
  const address = URL.createObjectURL(await (await call(path)).blob());
  image.onload = image.onerror = () => URL.revokeObjectURL(address);
  image.src = address;
}

/** (name, content) of a download. */
export async function file(path) {
  const answer = await call(path);
  const name = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get('Content-Disposition') || '');
  return [name ? decodeURIComponent(name[1]) : 'clip', await answer.blob()];
}

export function upload(content) {
  const body = new FormData();
  body.append('file', content, content.name || 'sound');
  return values('v1/uploads', { method: 'POST', body });
}

