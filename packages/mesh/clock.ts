/** A process whose clock is further ahead than this, milliseconds, is not followed: it would take all others along. */
const MAX_AHEAD_MS = 24 * 3_600_000;

/**
 * Milliseconds since 1970, as the machine's clock says: it may be set, back and forward. For times that are told, that are
 * stored, or that are compared with such. Nothing that lasts is measured with it.
 */
export type WallClock = () => number;

declare const MONOTONIC: unique symbol;

/**
 * Milliseconds since some moment: it only grows, at the pace of real time, whatever the machine's clock is set to. For everything that lasts:
 * limits, caches, repeats, silence, leases. On Linux it stands still while the machine sleeps, and runs on while the process is stopped.
 */
export type MonotonicClock = (() => number) & { readonly [MONOTONIC]: true };

/** This process' {@link MonotonicClock}. */
export const monotonicMs = (() => performance.now()) as MonotonicClock;

/**
 * The time at which messages are accepted: no earlier than any that this process has heard of from others, nor than what was accepted
 * before it started. Whoever's clock is slow is taken along (L. Lamport, Time, Clocks, and the Ordering of Events in a
 * Distributed System, 1978, rule IR2), so that a sender's timestamps do not go back when another router, with another
 * clock, accepts what comes next.
 */
export class MeshClock {
  readonly #clock: WallClock;
  #latestMs = 0;
  #heardMs = 0;

  constructor(clock: WallClock) {
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

  /** By how much {@link now} is ahead of this process' own clock, milliseconds: 0 unless that was set back, or is slow. */
  get aheadMs(): number {
    return Math.max(0, Math.max(this.#latestMs, this.#heardMs) - this.#clock());
  }

  /** Takes note of another one's time. False when that is more than a day ahead of this clock: it is left alone. */
  hear(ms: number): boolean {
    if (ms <= this.#heardMs) return true;
    if (ms > this.now() + MAX_AHEAD_MS) return false;
    this.#heardMs = ms;
    return true;
  }

  /** Goes on from a time that users have been told: however far ahead it is, what comes next is no earlier. */
  goOnFrom(ms: number): void {
    this.#latestMs = Math.max(this.#latestMs, ms);
  }
}
