/** How much is kept, at a thousand messages a second some seconds of it: bytes, rows and batches. */
const BYTES = 8 * 1024 * 1024;
const ROWS = 32_768;
const BATCHES = 16_384;
const NOBODY = -1;

/**
 * The rows of the batches that came last, in rings that are allocated once: what is kept as strings for seconds is copied by
 * every collection of young garbage, and was the greater part of what those had to copy.
 */
export class RecentBatches {
  readonly #bytes = Buffer.alloc(BYTES);
  /** How many bytes have been put so far, those that were left free at the ring's end included. */
  #end = 0;
  /** Where each row begins, counted as `#end` is, and how many there have been. */
  readonly #begins = new Float64Array(ROWS);
  readonly #lengths = new Uint32Array(ROWS);
  #rows = 0;
  // By the batch's number modulo their length: whose place it is, and which row is its first, counted as `#rows` is.
  readonly #numbers = new Float64Array(BATCHES).fill(NOBODY);
  readonly #firsts = new Float64Array(BATCHES);

  /** Keeps a batch, its rows in Latin-1 and parted by line breaks, in place of the oldest ones. */
  put(number: number, text: string): void {
    if ((this.#end % BYTES) + text.length > BYTES) this.#end += BYTES - (this.#end % BYTES);
    this.#bytes.write(text, this.#end % BYTES, 'latin1');
    this.#numbers[number % BATCHES] = number;
    this.#firsts[number % BATCHES] = this.#rows;
    for (let from = 0; from <= text.length; ) {
      const next = text.indexOf('\n', from);
      const to = next < 0 ? text.length : next;
      const at = this.#rows++ % ROWS;
      this.#begins[at] = this.#end + from;
      this.#lengths[at] = to - from;
      from = to + 1;
    }
    this.#end += text.length;
  }

  /** A row of a batch; undefined when it is not kept any more. */
  row(number: number, index: number): string | undefined {
    if (this.#numbers[number % BATCHES] !== number) return undefined;
    const row = (this.#firsts[number % BATCHES] as number) + index;
    const begin = this.#begins[row % ROWS] as number;
    if (row < this.#rows - ROWS || begin < this.#end - BYTES) return undefined;
    const from = begin % BYTES;
    return this.#bytes.toString('latin1', from, from + (this.#lengths[row % ROWS] as number));
  }
}
