/**
 * When what is gathered for a peer goes out: with this turn of the event loop, or, where nothing in it hurries, with
 * whatever goes next and after a few milliseconds at the latest. A frame that goes alone costs as much as one with ten
 * messages.
 */
export class Departure {
  readonly #depart: () => void;
  readonly #laterMs: number;
  #due = false;
  #timer: NodeJS.Timeout | undefined;

  /** @param depart sends what there is, which may be nothing. */
  constructor(depart: () => void, options: { laterMs: number }) {
    this.#depart = depart;
    this.#laterMs = options.laterMs;
  }

  /** Departs at the end of this turn. */
  soon(): void {
    if (this.#due) return;
    this.#due = true;
    setImmediate(() => this.#go());
  }

  /** Departs with the next one that hurries, or by itself. */
  later(): void {
    if (this.#due || this.#timer) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (!this.#due) this.#depart();
    }, this.#laterMs).unref();
  }

  /** Does not depart by itself any more. */
  cancel(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #go(): void {
    this.#due = false;
    this.#depart();
  }
}
