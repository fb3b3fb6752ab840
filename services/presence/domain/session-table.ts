import { randomBytes } from 'node:crypto';

/**
 * One connection of one device at one edge. Ids are UUIDs in lower case; the edge is a number that the owner of the table
 * gives it.
 */
export interface SessionRow {
  readonly userId: string;
  readonly deviceId: string;
  /** The edge's own number of the session. */
  readonly session: number;
  readonly edge: number;
}

/** Words of 32 bits per row: user and device are UUIDs of 4 each. */
const DEVICE = 4;
const SESSION = 8;
const EDGE = 9;
const ROW_WORDS = 10;
const NONE = -1;
const INITIAL_ROWS = 1024;

/**
 * Sessions by user, in a few typed arrays instead of objects: a row is 40 bytes, its link and its bucket 4 to 8 more.
 *
 * Doubling leaves some of it unused: 100,000 sessions were measured at 74 bytes each, 131,072 at 51, 140,000 at 99, by
 * `node --expose-gc test/dist/unit/presence/memory.js 100000`.
 */
export class SessionTable {
  #words = new Uint32Array(INITIAL_ROWS * ROW_WORDS);
  /** The next row of the same bucket, or the next free row. */
  #next = new Int32Array(INITIAL_ROWS);
  /** The first row by hash of the user; as many as there is room for rows. */
  #buckets = new Int32Array(INITIAL_ROWS).fill(NONE);
  /** The first row that was used and is free. */
  #free = NONE;
  /** Rows from here on were never used. */
  #fresh = 0;
  #size = 0;
  /** Users choose ids where tokens come from elsewhere: without the seed they could choose one bucket, too. */
  readonly #seed = randomBytes(4).readUInt32LE();
  readonly #user = new Uint32Array(4);
  readonly #device = new Uint32Array(4);

  get size(): number {
    return this.#size;
  }

  /** Adds a session; one that is there already is left as it is. */
  add(row: SessionRow): void {
    if (this.#find(row).at !== NONE) return;
    if (this.#free === NONE && this.#fresh === this.#next.length) this.#grow();
    const at = this.#free === NONE ? this.#fresh++ : this.#free;
    if (at === this.#free) this.#free = this.#at(this.#next, at);
    const start = at * ROW_WORDS;
    this.#words.set(this.#user, start);
    this.#words.set(this.#device, start + DEVICE);
    this.#words[start + SESSION] = row.session;
    this.#words[start + EDGE] = row.edge;
    this.#link(at);
    this.#size++;
  }

  /** Takes a session out. @returns whether it was there. */
  remove(row: SessionRow): boolean {
    const { at, before } = this.#find(row);
    if (at === NONE) return false;
    this.#unlink(at, before);
    return true;
  }

  /** Takes all sessions of an edge out, in one pass over the table. @returns the users who then have none. */
  removeEdge(edge: number): string[] {
    const users = new Set<string>();
    for (let bucket = 0; bucket < this.#buckets.length; bucket++) {
      let before = NONE;
      for (let at = this.#at(this.#buckets, bucket); at !== NONE; ) {
        const next = this.#at(this.#next, at);
        if (this.#words[at * ROW_WORDS + EDGE] === edge) {
          users.add(this.#uuid(at * ROW_WORDS));
          this.#unlink(at, before, bucket);
        } else before = at;
        at = next;
      }
    }
    return [...users].filter((user) => !this.has(user));
  }

  /** Whether a user has any session. */
  has(userId: string): boolean {
    for (const _ of this.#rowsOf(userId)) return true;
    return false;
  }

  /** The sessions of a user, in no particular order. */
  of(userId: string): SessionRow[] {
    return Array.from(this.#rowsOf(userId), (start) => ({
      userId: this.#uuid(start),
      deviceId: this.#uuid(start + DEVICE),
      session: this.#at(this.#words, start + SESSION),
      edge: this.#at(this.#words, start + EDGE),
    }));
  }

  /** Where the rows of a user start in the words. */
  *#rowsOf(userId: string): Generator<number> {
    parseUuid(userId, this.#user);
    for (let at = this.#at(this.#buckets, this.#bucket(this.#user, 0)); at !== NONE; at = this.#at(this.#next, at)) {
      if (this.#matches(at * ROW_WORDS, this.#user)) yield at * ROW_WORDS;
    }
  }

  /** Leaves the parsed ids in #user and #device. */
  #find({ userId, deviceId, session, edge }: SessionRow): { at: number; before: number } {
    parseUuid(userId, this.#user);
    parseUuid(deviceId, this.#device);
    let before = NONE;
    for (let at = this.#at(this.#buckets, this.#bucket(this.#user, 0)); at !== NONE; at = this.#at(this.#next, at)) {
      const start = at * ROW_WORDS;
      const same = this.#words[start + SESSION] === session && this.#words[start + EDGE] === edge;
      if (same && this.#matches(start, this.#user) && this.#matches(start + DEVICE, this.#device))
        return { at, before };
      before = at;
    }
    return { at: NONE, before };
  }

  #link(at: number): void {
    const bucket = this.#bucket(this.#words, at * ROW_WORDS);
    this.#next[at] = this.#at(this.#buckets, bucket);
    this.#buckets[bucket] = at;
  }

  /** `before` is the row ahead of it in its bucket, or NONE. */
  #unlink(at: number, before: number, bucket = this.#bucket(this.#words, at * ROW_WORDS)): void {
    if (before === NONE) this.#buckets[bucket] = this.#at(this.#next, at);
    else this.#next[before] = this.#at(this.#next, at);
    this.#next[at] = this.#free;
    this.#free = at;
    this.#size--;
  }

  /** Doubles; to be called when every row is in use. */
  #grow(): void {
    const rows = this.#next.length * 2;
    const words = new Uint32Array(rows * ROW_WORDS);
    words.set(this.#words);
    this.#words = words;
    this.#next = new Int32Array(rows);
    this.#buckets = new Int32Array(rows).fill(NONE);
    for (let at = 0; at < this.#fresh; at++) this.#link(at);
  }

  #matches(start: number, id: Uint32Array): boolean {
    const words = this.#words;
    return (
      words[start] === id[0] && words[start + 1] === id[1] && words[start + 2] === id[2] && words[start + 3] === id[3]
    );
  }

  #bucket(words: Uint32Array, start: number): number {
    let hash = this.#seed;
    for (let i = start; i < start + 4; i++) {
      hash = Math.imul(hash ^ this.#at(words, i), 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    return (hash >>> 0) & (this.#buckets.length - 1);
  }

  #uuid(start: number): string {
    let hex = '';
    for (let i = start; i < start + 4; i++) hex += this.#at(this.#words, i).toString(16).padStart(8, '0');
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }

  /** An element that is known to exist. */
  #at(array: Uint32Array | Int32Array, index: number): number {
    return array[index] as number;
  }
}

function parseUuid(text: string, into: Uint32Array): void {
  into[0] = Number.parseInt(text.slice(0, 8), 16);
  into[1] = Number.parseInt(text.slice(9, 13) + text.slice(14, 18), 16);
  into[2] = Number.parseInt(text.slice(19, 23) + text.slice(24, 28), 16);
  into[3] = Number.parseInt(text.slice(28), 16);
}
