import { HalfSipHash } from './half-sip-hash.js';

const FIRST_BITS = 10;
/** A fuller table would find its keys in ever longer walks. */
const MAX_LOAD = 0.6;
const EMPTY = -1;
/** Odd, so that it comes to every slot of any table; near the golden section of 2^32, so that it does not come to neighbours soon. */
const STRIDE = 0x9e3779b1;
/** So many ids are listed at a time at the most; of ids that are spread evenly it is the 256th part. */
const MAX_LISTED = 1024;

/** The value of each hexadecimal digit's character code. */
const DIGITS = new Uint8Array(128);
for (const [value, digit] of Array.from('0123456789abcdef').entries()) DIGITS[digit.charCodeAt(0)] = value;

/**
 * A map from UUIDs to numbers of 0 and more, in typed arrays: tens of thousands of entries that live for minutes are no
 * work for the garbage collector, as entries of a Map of strings would be. Open addressing with linear probing. Clients
 * choose ids, so all 128 bits of one decide its slot, under a key of this process alone: nobody can choose ids that share
 * slots.
 */
export class IdTable {
  /** Four words for each slot. */
  #ids = new Uint32Array(4 << FIRST_BITS);
  #values = new Float64Array(1 << FIRST_BITS).fill(EMPTY);
  #mask = (1 << FIRST_BITS) - 1;
  #shift = 32 - FIRST_BITS;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The most slots that are looked at before one of its ids is found, and how many that are on average; 0 without any. */
  get walks(): { readonly longest: number; readonly mean: number } {
    let longest = 0;
    let sum = 0;
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (this.#values[slot] === EMPTY) continue;
      const length = ((slot - this.#homeAt(slot)) & this.#mask) + 1;
      longest = Math.max(longest, length);
      sum += length;
    }
    return { longest, mean: this.#size === 0 ? 0 : sum / this.#size };
  }

  /** The number of an id; undefined when the table does not have it. */
  get(id: string): number | undefined {
    if (this.#size === 0) return undefined;
    const value = this.#values[this.#slotOfText(id)] as number;
    return value === EMPTY ? undefined : value;
  }

  set(id: string, value: number): void {
    readWords(id);
    this.#put(hash, WORDS[0] as number, WORDS[1] as number, WORDS[2] as number, WORDS[3] as number, value);
  }

  delete(id: string): void {
    if (this.#size === 0) return;
    let hole = this.#slotOfText(id);
    if (this.#values[hole] === EMPTY) return;
    this.#size--;
    // Entries behind the hole that were pushed over it move back, so that no walk ends too early.
    for (let slot = (hole + 1) & this.#mask; this.#values[slot] !== EMPTY; slot = (slot + 1) & this.#mask) {
      const home = this.#homeAt(slot);
      if (((slot - home) & this.#mask) < ((slot - hole) & this.#mask)) continue;
      this.#ids.copyWithin(4 * hole, 4 * slot, 4 * slot + 4);
      this.#values[hole] = this.#values[slot] as number;
      hole = slot;
    }
    this.#values[hole] = EMPTY;
  }

  clear(): void {
    this.#values.fill(EMPTY);
    this.#size = 0;
  }

  /** Takes over every entry of another table whose id this one does not have. */
  addMissing(other: IdTable): void {
    // Not in the order of the slots: in a smaller table neighbours there would fill one place after the other.
    for (let i = 0, slot = 0; i <= other.#mask; i++, slot = (slot + STRIDE) & other.#mask) {
      const value = other.#values[slot] as number;
      if (value === EMPTY) continue;
      const ids = other.#ids.subarray(4 * slot, 4 * slot + 4);
      const [a, b, c, d] = ids as unknown as [number, number, number, number];
      const hashed = HASH.of(a, b, c, d);
      if (this.#values[this.#slotOf(hashed, a, b, c, d)] === EMPTY) this.#put(hashed, a, b, c, d, value);
    }
  }

  /**
   * The ids of this moment as 16 bytes, in order, some at a time: they are sorted as they are asked for, so that nobody
   * waits for all of it. The table may change meanwhile.
   */
  *keysInOrder(): Generator<Buffer[]> {
    const starts = new Uint32Array(257);
    for (let slot = 0; slot <= this.#mask; slot++)
      if (this.#values[slot] !== EMPTY) count(starts, this.#firstByte(slot) + 1, 1);
    for (let byte = 0; byte < 256; byte++) count(starts, byte + 1, starts[byte] as number);
    const keys = Buffer.allocUnsafe(16 * this.#size);
    const next = starts.slice();
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (this.#values[slot] === EMPTY) continue;
      const at = 16 * count(next, this.#firstByte(slot), 1);
      for (let word = 0; word < 4; word++) keys.writeUInt32BE(this.#ids[4 * slot + word] as number, at + 4 * word);
    }
    for (let byte = 0; byte < 256; byte++) {
      const some: Buffer[] = [];
      const end = 16 * (starts[byte + 1] as number);
      for (let at = 16 * (starts[byte] as number); at < end; at += 16) some.push(keys.subarray(at, at + 16));
      some.sort(Buffer.compare);
      // Who chooses ids can have them begin alike.
      for (let at = 0; at < some.length; at += MAX_LISTED) yield some.slice(at, at + MAX_LISTED);
    }
  }

  /** The number of an id of 16 bytes. */
  getKey(key: Buffer): number | undefined {
    const [a, b, c, d] = [key.readUInt32BE(0), key.readUInt32BE(4), key.readUInt32BE(8), key.readUInt32BE(12)];
    const slot = this.#slotOf(HASH.of(a, b, c, d), a, b, c, d);
    const value = this.#values[slot] as number;
    return value === EMPTY ? undefined : value;
  }

  #slotOfText(id: string): number {
    readWords(id);
    return this.#slotOf(hash, WORDS[0] as number, WORDS[1] as number, WORDS[2] as number, WORDS[3] as number);
  }

  #put(hashed: number, a: number, b: number, c: number, d: number, value: number): void {
    let slot = this.#slotOf(hashed, a, b, c, d);
    if (this.#values[slot] === EMPTY) {
      if (this.#size >= MAX_LOAD * (this.#mask + 1)) {
        this.#grow();
        slot = this.#slotOf(hashed, a, b, c, d);
      }
      this.#size++;
      const at = 4 * slot;
      this.#ids[at] = a;
      this.#ids[at + 1] = b;
      this.#ids[at + 2] = c;
      this.#ids[at + 3] = d;
    }
    this.#values[slot] = value;
  }

  #firstByte(slot: number): number {
    return (this.#ids[4 * slot] as number) >>> 24;
  }

  /** Where the id of a slot would be if every slot were free. */
  #homeAt(slot: number): number {
    const ids = this.#ids;
    const at = 4 * slot;
    return (
      HASH.of(ids[at] as number, ids[at + 1] as number, ids[at + 2] as number, ids[at + 3] as number) >>> this.#shift
    );
  }

  /** The slot that holds an id, or the empty one where it would go. */
  #slotOf(hashed: number, a: number, b: number, c: number, d: number): number {
    const ids = this.#ids;
    const values = this.#values;
    // The upper bits: a larger table lists its ids in the same order, so they go into it one after the other.
    for (let slot = hashed >>> this.#shift; ; slot = (slot + 1) & this.#mask) {
      if (values[slot] === EMPTY) return slot;
      const at = 4 * slot;
      if (ids[at + 3] === d && ids[at + 2] === c && ids[at + 1] === b && ids[at] === a) return slot;
    }
  }

  #grow(): void {
    const ids = this.#ids;
    const values = this.#values;
    this.#size = 0;
    this.#ids = new Uint32Array(2 * ids.length);
    this.#values = new Float64Array(2 * values.length).fill(EMPTY);
    this.#mask = 2 * values.length - 1;
    this.#shift--;
    // Without iterators and views: tables grow while messages wait.
    for (let slot = 0; slot < values.length; slot++) {
      const value = values[slot] as number;
      if (value === EMPTY) continue;
      const at = 4 * slot;
      const [a, b, c, d] = [ids[at], ids[at + 1], ids[at + 2], ids[at + 3]] as [number, number, number, number];
      this.#put(HASH.of(a, b, c, d), a, b, c, d, value);
    }
  }
}

/** Adds to a number of an array and returns what it was. */
function count(counts: Uint32Array, index: number, more: number): number {
  const before = counts[index] as number;
  counts[index] = before + more;
  return before;
}

/** A UUID as its 16 bytes. */
export function keyOf(id: string): Buffer {
  readWords(id);
  const key = Buffer.allocUnsafe(16);
  for (let word = 0; word < 4; word++) key.writeUInt32BE(WORDS[word] as number, 4 * word);
  return key;
}

/** One for all tables: the same id is looked for in several of them, one after the other. */
const HASH = new HalfSipHash();
/** The UUID that was read last, its four words, and their hash. */
let lastRead = '';
const WORDS = new Uint32Array(4);
let hash = 0;

/** Reads a UUID as text, 8-4-4-4-12 digits. */
function readWords(id: string): void {
  if (id === lastRead) return;
  WORDS[0] = (half(id, 0) << 16) | half(id, 4);
  WORDS[1] = (half(id, 9) << 16) | half(id, 14);
  WORDS[2] = (half(id, 19) << 16) | half(id, 24);
  WORDS[3] = (half(id, 28) << 16) | half(id, 32);
  hash = HASH.of(WORDS[0] as number, WORDS[1] as number, WORDS[2] as number, WORDS[3] as number);
  lastRead = id;
}

/** Four hexadecimal digits. */
function half(id: string, at: number): number {
  return (
    ((DIGITS[id.charCodeAt(at)] as number) << 12) |
    ((DIGITS[id.charCodeAt(at + 1)] as number) << 8) |
    ((DIGITS[id.charCodeAt(at + 2)] as number) << 4) |
    (DIGITS[id.charCodeAt(at + 3)] as number)
  );
}
