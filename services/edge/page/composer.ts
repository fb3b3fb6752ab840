/** Of the wire contract, in Unicode code points. */
const MAX_CODE_POINTS = 1_000;
/** From here on it says how many are left. */
const NEARLY_FULL = 900;

/** Where a message is written: Enter sends, Shift+Enter begins a line. */
export class Composer {
  readonly #form: HTMLFormElement;
  readonly #text: HTMLTextAreaElement;
  readonly #left: HTMLElement;
  readonly #send: HTMLButtonElement;
  #enabled = true;

  /** `onWrite` is given a valid text; the box is emptied when it resolves. */
  constructor(
    elements: { form: HTMLFormElement; text: HTMLTextAreaElement; left: HTMLElement; send: HTMLButtonElement },
    onWrite: (text: string) => Promise<void>,
  ) {
    this.#form = elements.form;
    this.#text = elements.text;
    this.#left = elements.left;
    this.#send = elements.send;
    this.#text.addEventListener('input', () => this.#update());
    this.#text.addEventListener('keydown', (event) => {
      // Enter also ends the choice of an input method, which is no wish to send.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#form.requestSubmit();
    });
    this.#form.addEventListener('submit', async (event) => {
      event.preventDefault();
      if (this.#send.disabled) return;
      const text = this.#text.value;
      // Emptied first, so that a second Enter does not send it again; put back when it was not kept.
      this.#text.value = '';
      this.#update();
      try {
        await onWrite(text);
      } catch {
        this.#text.value = text + this.#text.value;
        this.#update();
      }
    });
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  set enabled(enabled: boolean) {
    this.#enabled = enabled;
    this.#text.disabled = !enabled;
    this.#update();
  }

  focus(): void {
    this.#text.focus();
  }

  #update(): void {
    const text = this.#text.value;
    const length = [...text].length;
    const over = length > MAX_CODE_POINTS;
    this.#left.textContent = length > NEARLY_FULL ? `${MAX_CODE_POINTS - length}` : '';
    this.#left.classList.toggle('over', over);
    this.#send.disabled = !this.#enabled || over || text.trim() === '' || !text.isWellFormed();
    this.#text.style.height = 'auto';
    const borderPx = this.#text.offsetHeight - this.#text.clientHeight;
    this.#text.style.height = `${this.#text.scrollHeight + borderPx}px`;
  }
}
