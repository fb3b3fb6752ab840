/** What a {@link Departure} needs. */
export interface DepartureOptions<T> {
  /** Begins with nothing gathered. */
  readonly begin: () => T;
  /** Sends what was gathered. */
  readonly depart: (gathered: T) => void;
  /** The longest that something waits which does not hurry. */
  readonly laterMs: number;
}

/**
 * Gathers what is for a peer, and sends it with this turn of the event loop, or, where nothing in it hurries, with
 * whatever goes next and after a few milliseconds at the latest. A frame that goes alone costs as much as one with ten
 * messages.
 */
export class Departure<T> {
  readonly #options: DepartureOptions<T>;
  #gathered: T | undefined;
  #due = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: DepartureOptions<T>) {
    this.#options = options;
  }

  /** What is gathered and has not departed; undefined when there is nothing. */
  get gathered(): T | undefined {
    return this.#gathered;
  }

  /** What departs at the end of this turn, to be added to. */
  soon(): T {
    if (!this.#due) {
      this.#due = true;
      setImmediate(() => {
        this.#due = false;
        this.now();
      });
    }
    return this.#gather();
  }

  /** What departs with the next that hurries, or by itself, to be added to. */
  later(): T {
    if (!this.#due && !this.#timer) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        if (!this.#due) this.now();
      }, this.#options.laterMs).unref();
    }
    return this.#gather();
  }

  /** Departs at once, if there is anything. */
  now(): void {
    const gathered = this.#gathered;
    this.#gathered = undefined;
    if (gathered !== undefined) this.#options.depart(gathered);
  }

  /** Drops what is gathered; returns it. */
  discard(): T | undefined {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const gathered = this.#gathered;
    this.#gathered = undefined;
    return gathered;
  }

  #gather(): T {
    this.#gathered ??= this.#options.begin();
    return this.#gathered;
  }
}
