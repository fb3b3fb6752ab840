/** How many sends a user may make: `rate` a second on average, `burst` at once. A rate of 0 means no limit. */
export interface RateLimit {
  readonly rate: number;
  readonly burst: number;
}

/** One token bucket per key; full buckets are forgotten. */
export class TokenBuckets {
  readonly #limit: RateLimit;
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(limit: RateLimit) {
    this.#limit = limit;
  }

  /** Takes one token of `key`: 0 when there was one, else the milliseconds until there will be. */
  take(key: string, nowMs: number): number {
    const { rate, burst } = this.#limit;
    if (rate === 0) return 0;
    let bucket = this.#buckets.get(key);
    if (!bucket) {
      bucket = { tokens: burst, atMs: nowMs };
      this.#buckets.set(key, bucket);
    } else {
      bucket.tokens = Math.min(burst, bucket.tokens + ((nowMs - bucket.atMs) * rate) / 1000);
      bucket.atMs = nowMs;
    }
    if (bucket.tokens < 1) return Math.max(1, Math.ceil(((1 - bucket.tokens) * 1000) / rate));
    bucket.tokens -= 1;
    return 0;
  }

  /** Forgets buckets that have filled up since they were used: they are as good as new. */
  sweep(nowMs: number): void {
    const { rate, burst } = this.#limit;
    for (const [key, bucket] of this.#buckets) {
      if (bucket.tokens + ((nowMs - bucket.atMs) * rate) / 1000 >= burst) this.#buckets.delete(key);
    }
  }
}
