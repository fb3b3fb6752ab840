/** Of one call with many items, so that a large one does not hold up all others. */
const MAX_PARALLEL = 256;

/** Does `work` for each item, some hundred at a time, and gives the results in order. After a failure no more are begun. */
export async function inParallel<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < items.length && !failed) {
      const i = next++;
      try {
        results[i] = await work(items[i] as T);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(MAX_PARALLEL, items.length) }, worker));
  return results;
}

/** At most so many at a time; the others wait in order. Those who wait are bounded by their callers' deadlines. */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#free++;
    }
  }
}

/**
 * Lets work through in portions: so much in each turn of the event loop, however much there is. Who waits is served in
 * order, so that nobody who brings much holds up one who brings little for long.
 */
export class Turns {
  readonly #perTurn: number;
  #left: number;
  #turning = false;
  readonly #waiting: { readonly cost: number; readonly go: () => void }[] = [];

  constructor(perTurn: number) {
    this.#perTurn = perTurn;
    this.#left = perTurn;
  }

  /** Resolves when it is the caller's turn. What costs more than a whole turn gets one all the same. */
  async take(cost: number): Promise<void> {
    if (!this.#turning) {
      this.#turning = true;
      setImmediate(() => this.#turn());
    }
    if (this.#waiting.length === 0 && this.#left > 0) this.#left -= cost;
    else await new Promise<void>((go) => this.#waiting.push({ cost, go }));
  }

  #turn(): void {
    this.#turning = this.#waiting.length > 0;
    this.#left = this.#perTurn;
    while (this.#left > 0) {
      const next = this.#waiting.shift();
      if (!next) break;
      this.#left -= next.cost;
      next.go();
    }
    if (this.#turning) setImmediate(() => this.#turn());
  }
}
