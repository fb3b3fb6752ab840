/** The server is heard of every 25 seconds; a connection on which nothing came for this long is dead. */
const silenceLimitMs = 60_000;

/**
 * Tells when nothing was heard for 60 s, on a clock that no step of the wall clock moves. A process that stood still
 * itself, as on a laptop that slept, first listens for another look: what came meanwhile has not been read yet.
 */
export class Watchdog {
  #heardAtMs = performance.now();
  #lookedAtMs = performance.now();
  readonly #timer: ReturnType<typeof setInterval>;

  /**
   * @param silent called once
   * @param limitMs how long the silence may be
   */
  constructor(silent: () => void, limitMs = silenceLimitMs) {
    const lookMs = limitMs / 4;
    this.#timer = setInterval(() => {
      const nowMs = performance.now();
      const stoodStill = nowMs - this.#lookedAtMs > 2 * lookMs;
      this.#lookedAtMs = nowMs;
      if (stoodStill || nowMs - this.#heardAtMs <= limitMs) return;
      this.stop();
      silent();
    }, lookMs);
    // Node's timer keeps no process alive; a browser's is a number.
    if (typeof this.#timer === 'object') this.#timer.unref();
  }

  heard(): void {
    this.#heardAtMs = performance.now();
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
