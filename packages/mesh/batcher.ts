interface Waiting<K, V> {
  readonly key: K;
  readonly resolve: (value: V) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Joins questions that come together, or while the one before is being answered, into one question of up to `maxKeys`, so
 * that many at once cost little more than one: after an outage every client connects again at the same time.
 */
export class Batcher<K, V> {
  readonly #ask: (keys: readonly K[]) => Promise<readonly V[]>;
  readonly #maxKeys: number;
  /** Bounded by whoever bounds the calls in flight, which are what waits. */
  readonly #waiting: Waiting<K, V>[] = [];
  #asking = false;

  /** @param ask answers in the order of the keys. */
  constructor(ask: (keys: readonly K[]) => Promise<readonly V[]>, { maxKeys }: { maxKeys: number }) {
    this.#ask = ask;
    this.#maxKeys = maxKeys;
  }

  /** The answer for one key. Rejects with what the joined question rejects with. */
  get(key: K): Promise<V> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ key, resolve, reject });
      if (this.#asking) return;
      this.#asking = true;
      queueMicrotask(() => void this.#run());
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, this.#maxKeys);
      try {
        const values = await this.#ask(batch.map(({ key }) => key));
        for (const [i, { resolve }] of batch.entries()) resolve(values[i] as V);
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#asking = false;
  }
}
