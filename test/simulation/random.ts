import { randomFrom } from '../random.js';

/** Chance that is the same for the same seed. */
export class Random {
  /** From 0 to below 1. */
  readonly fraction: () => number;

  constructor(seed: number) {
    this.fraction = randomFrom(seed);
  }

  /** A whole number from 0 to below `n`. */
  below(n: number): number {
    return Math.floor(this.fraction() * n);
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  among<T>(choice: readonly T[]): T {
    return choice[this.below(choice.length)] as T;
  }
}
