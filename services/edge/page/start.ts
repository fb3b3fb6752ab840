import { type Credentials, isUserId, parseLink, userOf } from './credentials.js';

export interface StartElements {
  readonly form: HTMLFormElement;
  readonly error: HTMLElement;
  readonly token: HTMLInputElement;
  readonly hint: HTMLElement;
  readonly peer: HTMLInputElement;
}

const TOKEN_HINT = 'From “npx chatmesh user create”, or a link with it.';

/** The first screen: who are you, and whom do you want to write to? */
export class Start {
  readonly #elements: StartElements;

  constructor(elements: StartElements, onStart: (credentials: Credentials) => void) {
    this.#elements = elements;
    elements.token.addEventListener('input', () => this.#tokenChanged());
    elements.form.addEventListener('submit', (event) => {
      event.preventDefault();
      const credentials = this.#read();
      if (credentials) onStart(credentials);
    });
  }

  /** Shows what is known already, and what went wrong, if anything did. */
  show({ token, peer }: { token: string; peer: string }, error = ''): void {
    this.#elements.token.value = token;
    this.#elements.peer.value = peer;
    this.#tokenChanged();
    this.#complain(error);
    const { token: tokenInput, peer: peerInput } = this.#elements;
    (token === '' || error !== '' ? tokenInput : peerInput).select();
  }

  #tokenChanged(): void {
    const { token, peer, hint } = this.#elements;
    const link = parseLink(token.value);
    if (link) {
      token.value = link.token;
      if (link.peer !== '') peer.value = link.peer;
    }
    const me = userOf(token.value.trim());
    hint.textContent = me === undefined ? TOKEN_HINT : `You are ${me}`;
  }

  #read(): Credentials | undefined {
    const token = this.#elements.token.value.trim();
    const peer = this.#elements.peer.value.trim().toLowerCase();
    const me = userOf(token);
    if (me === undefined) return this.#complain('That is not a token of a chatmesh user.', this.#elements.token);
    if (!isUserId(peer))
      return this.#complain(
        'That is not the id of a user: it looks like 0f8fad5b-d9cb-469f-a165-70867728950e.',
        this.#elements.peer,
      );
    this.#complain('');
    return { token, me, peer };
  }

  #complain(text: string, about?: HTMLInputElement): undefined {
    const { error, token, peer } = this.#elements;
    error.textContent = text;
    error.hidden = text === '';
    for (const input of [token, peer]) input.setAttribute('aria-invalid', String(input === about));
    about?.focus();
    return undefined;
  }
}
