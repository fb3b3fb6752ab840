/** So many refusals one after the other are no accident. */
const IN_A_ROW = 20;
const FIRST_MS = 2_000;
const LONGEST_MS = 60_000;

/**
 * Whether somebody who is connected is better left alone, from what became of what was asked last (outlier ejection by failures in a
 * row, as Envoy calls it). After each ejection it is asked again; while it fails, ejections double from 2 s to a minute.
 */
export class Ejection {
  #inARow = 0;
  #ms = FIRST_MS;
  #untilMs = 0;

  /** Notes what became of one request, at a time of any clock that only grows, milliseconds. */
  note(failed: boolean, nowMs: number): void {
    if (!failed) {
      this.#inARow = 0;
      this.#ms = FIRST_MS;
    } else if (++this.#inARow >= IN_A_ROW && nowMs >= this.#untilMs) {
      this.#untilMs = nowMs + this.#ms;
      this.#ms = Math.min(LONGEST_MS, this.#ms * 2);
    }
  }

  /** True while it is to be asked only where nobody else can be. */
  ejected(nowMs: number): boolean {
    return nowMs < this.#untilMs;
  }
}
