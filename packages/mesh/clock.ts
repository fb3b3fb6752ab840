/** A process whose clock is further ahead than this, milliseconds, is not followed: it would take all others along. */
const MAX_AHEAD_MS = 60_000;

/**
 * The time at which messages are accepted: no earlier than any that this process has heard of from others. Whoever's clock is
 * slow is taken along (L. Lamport, Time, Clocks, and the Ordering of Events in a Distributed System, 1978, rule IR2), so
 * that a sender's timestamps do not go back when another router, with another clock, accepts what comes next.
 */
export class MeshClock {
  readonly #clock: () => number;
  #latestMs = 0;
  #heardMs = 0;

  /** @param clock milliseconds since 1970; it may go back */
  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** Milliseconds since 1970; never less than before, nor than what was heard. */
  now(): number {
    this.#latestMs = Math.max(this.#latestMs, this.#heardMs, this.#clock());
    return this.#latestMs;
  }

  /** The latest time heard of from others, milliseconds since 1970; 0 when there was none. */
  get heardMs(): number {
    return this.#heardMs;
  }

  /** Takes note of another one's time. False when that is more than a minute ahead of this process' own clock: it is left alone. */
  hear(ms: number): boolean {
    if (ms <= this.#heardMs) return true;
    if (ms > this.#clock() + MAX_AHEAD_MS) return false;
    this.#heardMs = ms;
    return true;
  }
}
