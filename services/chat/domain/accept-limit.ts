/** Above this lag, milliseconds, less is accepted: a lease has to be shown within two seconds or a few more. */
const LAG_MS = 1_500;
const LEAST = 16;
const MOST = 2_048;
const STEP_MS = 200;
const MORE = 128;
const LESS = 0.7;

/**
 * How many messages a router accepts at a time: fewer and fewer while events take long to come through the log, more again
 * when they do not (additive increase, multiplicative decrease: D. Chiu and R. Jain, 1989). What waits to be accepted costs
 * nothing but its sender's time; what is accepted and waits keeps owners from their work, and is then stored and sent twice.
 */
export class AcceptLimit {
  readonly #lagMs: () => number;
  readonly #monotonicMs: () => number;
  #value = MOST;
  #steppedAt = 0;

  /** @param lagMs how long an event takes through the log. @param monotonicMs a monotonic clock */
  constructor(lagMs: () => number, monotonicMs: () => number) {
    this.#lagMs = lagMs;
    this.#monotonicMs = monotonicMs;
  }

  /** The limit now, 16 to 2,048. */
  get value(): number {
    const steps = (this.#monotonicMs() - this.#steppedAt) / STEP_MS;
    if (steps >= 1) {
      this.#steppedAt = this.#monotonicMs();
      if (this.#lagMs() > LAG_MS) this.#value = Math.max(LEAST, Math.round(this.#value * LESS));
      else this.#value = Math.min(MOST, Math.round(this.#value + MORE * steps));
    }
    return this.#value;
  }
}
