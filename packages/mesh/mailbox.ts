import { MeshError } from './errors.js';

/**
 * A bounded queue between one filler and one taker. The bound is kept where it is filled: a full box refuses.
 *
 * `open` to `closed`, once; what is in the box when it is closed can still be taken.
 */
export class Mailbox<T> {
  readonly #capacity: number;
  #items: T[] = [];
  #taken = 0;
  #wake: (() => void) | undefined;
  #closed = false;
  #error: MeshError | undefined;

  constructor(options: { capacity: number }) {
    this.#capacity = options.capacity;
  }

  get size(): number {
    return this.#items.length - this.#taken;
  }

  /** Puts an item in; false when the box is full or closed. */
  offer(item: T): boolean {
    if (this.#closed || this.size >= this.#capacity) return false;
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  /** Closes the box; after its last item the taker sees the end, or `error`. */
  close(error?: MeshError): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#error = error;
    this.#wake?.();
  }

  /**
   * The next item; undefined at the end.
   *
   * @throws the error of the close; MeshError `cancelled` when the signal fires.
   */
  async next(options: { signal?: AbortSignal } = {}): Promise<T | undefined> {
    const { signal } = options;
    for (;;) {
      if (this.#taken < this.#items.length) return this.#take();
      if (this.#closed) {
        if (this.#error) throw this.#error;
        return undefined;
      }
      if (signal?.aborted) throw new MeshError('cancelled', 'cancelled');
      await new Promise<void>((resolve) => {
        const wake = () => {
          signal?.removeEventListener('abort', wake);
          this.#wake = undefined;
          resolve();
        };
        this.#wake = wake;
        signal?.addEventListener('abort', wake, { once: true });
      });
    }
  }

  #take(): T {
    const item = this.#items[this.#taken++] as T;
    // An empty box keeps nothing; a long one is cut now and then, so that taking costs no move.
    if (this.#taken === this.#items.length || (this.#taken > 64 && this.#taken * 2 > this.#items.length)) {
      this.#items = this.#items.slice(this.#taken);
      this.#taken = 0;
    }
    return item;
  }
}
