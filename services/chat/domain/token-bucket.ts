/** How many sends a user may make: `rate` a second on average, `burst` at once. A rate of 0 means no limit. */
export interface RateLimit {
  readonly rate: number;
  readonly burst: number;
}

/** Buckets that several routers take tokens from. */
export interface SharedTokens {
  /** Takes tokens of `key`, also those that are not there. Resolves with how many are left, 0 or more. */
  take(key: string, count: number, limit: RateLimit): Promise<number>;
}

interface Bucket {
  tokens: number;
  atMs: number;
  /** Taken here and not yet taken from what is shared. */
  untold: number;
  telling: boolean;
}

/** A part of the burst, in which what was taken here is told to the others. */
const SHARES = 20;

/**
 * One token bucket per key; full buckets are forgotten.
 *
 * What is taken is decided here and at once. Where other routers take from the same buckets, each tells what it has taken, a twentieth of
 * the burst at a time, and goes on from what is left there: nobody waits for an answer, who sends little causes no traffic, and
 * together they let through too much by a twentieth each. Without an answer each router's own bucket counts.
 */
export class TokenBuckets {
  readonly #limit: RateLimit;
  readonly #shared: SharedTokens | undefined;
  readonly #buckets = new Map<string, Bucket>();
  readonly #telling: number;

  constructor(limit: RateLimit, shared?: SharedTokens) {
    this.#limit = limit;
    this.#shared = shared;
    this.#telling = Math.max(1, Math.floor(limit.burst / SHARES));
  }

  /** Takes one token of `key` at a time of a monotonic clock: 0 when there was one, else the milliseconds until there will be. */
  take(key: string, nowMs: number): number {
    const { rate, burst } = this.#limit;
    if (rate === 0) return 0;
    let bucket = this.#buckets.get(key);
    if (!bucket) {
      bucket = { tokens: burst, atMs: nowMs, untold: 0, telling: false };
      this.#buckets.set(key, bucket);
    } else {
      bucket.tokens = Math.min(burst, bucket.tokens + ((nowMs - bucket.atMs) * rate) / 1000);
      bucket.atMs = nowMs;
    }
    if (bucket.tokens < 1) return Math.max(1, Math.ceil(((1 - bucket.tokens) * 1000) / rate));
    bucket.tokens -= 1;
    if (this.#shared && ++bucket.untold >= this.#telling && !bucket.telling) void this.#tell(key, bucket, this.#shared);
    return 0;
  }

  /** Forgets buckets that have filled up since they were used: they are as good as new. */
  sweep(nowMs: number): void {
    const { rate, burst } = this.#limit;
    for (const [key, bucket] of this.#buckets) {
      if (bucket.tokens + ((nowMs - bucket.atMs) * rate) / 1000 >= burst) this.#buckets.delete(key);
    }
  }

  async #tell(key: string, bucket: Bucket, shared: SharedTokens): Promise<void> {
    const { untold } = bucket;
    bucket.untold = 0;
    bucket.telling = true;
    try {
      bucket.tokens = (await shared.take(key, untold, this.#limit)) - bucket.untold;
    } catch {
      // Whoever keeps the buckets says so itself; what is not told now is told with the next token.
      bucket.untold += untold;
    } finally {
      bucket.telling = false;
    }
  }
}
