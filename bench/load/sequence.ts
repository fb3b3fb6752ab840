/** A gap this wide means that the numbers are not what they should be. */
const MAX_GAP = 1_000_000;

/** Checks that the numbers 0, 1, 2... arrive each once and in order; costs nothing while they do. */
export class Sequence {
  /** Numbers that came more than once. */
  repeated = 0;
  /** Numbers that came after a greater one. */
  reordered = 0;
  #next = 0;
  readonly #missing = new Set<number>();

  /** How many different numbers came. */
  get seen(): number {
    return this.#next - this.#missing.size;
  }

  /** Takes a number; false when it had come before. */
  see(number: number): boolean {
    if (number === this.#next) {
      this.#next++;
      return true;
    }
    if (number < this.#next) {
      if (this.#missing.delete(number)) {
        this.reordered++;
        return true;
      }
      this.repeated++;
      return false;
    }
    if (number - this.#next > MAX_GAP) throw new Error(`number ${number} after ${this.#next - 1}`);
    for (let absent = this.#next; absent < number; absent++) this.#missing.add(absent);
    this.#next = number + 1;
    return true;
  }
}
