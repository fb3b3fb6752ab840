import { closeSync, openSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import {
  BIG_BYTES,
  Damage,
  damagedPage,
  NODE_BIG,
  NODE_HEADER,
  NODE_TREE,
  numberAt,
  PAGE_BRANCH,
  PAGE_HEADER,
  PAGE_LEAF,
  PAGE_OVERFLOW,
  PageFile,
  TREE_BYTES,
  type Tree,
  tableAt,
} from './lmdb-pages.js';
import { CHECKSUM_BYTES, nameOfTable, seedOf } from './lmdb-row.js';

/** A row whose checksum is not its own. */
export interface DamagedPlace {
  readonly table: string;
  readonly key: Buffer;
  readonly page: number;
}

/** What was found in a data file. */
export interface Findings {
  /** Why the file must not be opened, as the end of a sentence; undefined when it may be. */
  readonly damage: string | undefined;
  /** Rows that will be read as damaged; the first {@link MAX_ROWS_NAMED} of them. */
  readonly rows: readonly DamagedPlace[];
  readonly damagedRows: number;
}

const MAX_ROWS_NAMED = 1_000;
const CHUNK_BYTES = 1 << 20;

/**
 * Looks for damage in an LMDB data file before it is mapped into memory, where a page that is missing or points astray
 * would end the process by a signal, and a free list that names pages in use would have them overwritten.
 *
 * Walks the newest snapshot, every byte of it. Each page must bear its number, be no newer than what points to it, hold entries
 * that lie within it, fill it and follow one another in the order of their keys, between the keys that lead to it. Each tree
 * must have as many entries and pages as its description says. No page may be in use twice, or in use and free. What is wrong
 * with a row alone costs that row: it is named, and the file may be opened.
 *
 * Not noticed: a page that was put back to an older state, where its keys and the number of its rows happen to fit.
 *
 * Memory: a bit for each page, and a page for each level of a tree.
 *
 * @throws what the file system says when the file cannot be read.
 */
export function findDamage(file: string): Findings {
  const descriptor = openSync(file, 'r');
  const rows: DamagedPlace[] = [];
  let damagedRows = 0;
  try {
    new Walk(new PageFile(descriptor), (row) => {
      if (++damagedRows <= MAX_ROWS_NAMED) rows.push(row);
    }).run();
    return { damage: undefined, rows, damagedRows };
  } catch (error) {
    if (error instanceof Damage) return { damage: error.message, rows, damagedRows };
    throw error;
  } finally {
    closeSync(descriptor);
  }
}

/**
 * A checksum of what tells used from unused pages of the newest snapshot: the meta pages and the free list.
 *
 * @throws Damage where there is none.
 */
export function checksumOfSpace(descriptor: number): number {
  const file = new PageFile(descriptor);
  const metas = Buffer.alloc(2 * file.pageSize);
  file.read(metas, 0);
  let checksum = crc32(metas);
  const walk = new Walk(file, () => {});
  walk.freeList((bytes) => {
    checksum = crc32(bytes, checksum);
  });
  return checksum;
}

/** A key on a page. */
interface Key {
  readonly page: Buffer;
  readonly at: number;
  readonly end: number;
}

/** What a tree's entries mean. */
interface Kind {
  readonly compare: (a: Key, b: Key) => number;
  /** Looks at an entry of a leaf. A long value's first page is `long`. */
  readonly entry: (entry: Entry) => void;
}

interface Entry {
  readonly page: Buffer;
  readonly number: number;
  readonly key: Key;
  /** Where the value stands on the page, or a long value's reference. */
  readonly value: number;
  readonly bytes: number;
  readonly flags: number;
  /** First page of a long value; 0 of others. */
  readonly long: number;
  /** The level of the leaf: levels below it are free. */
  readonly level: number;
}

interface Counts {
  branchPages: number;
  leafPages: number;
  overflowPages: number;
  entries: number;
}

class Walk {
  readonly #file: PageFile;
  readonly #damagedRow: (row: DamagedPlace) => void;
  /** A page for each level: one is still being read while those below it are. */
  readonly #pages: Buffer[] = [];
  /** A bit for each page that is in use or free. */
  readonly #taken: Uint8Array;
  #chunk = Buffer.allocUnsafe(0);

  constructor(file: PageFile, damagedRow: (row: DamagedPlace) => void) {
    this.#file = file;
    this.#damagedRow = damagedRow;
    this.#taken = new Uint8Array((file.newest.lastPage >>> 3) + 1);
  }

  run(): void {
    const { mainTree, transaction } = this.#file.newest;
    this.#tree(mainTree, 'the main tree', 0, transaction, {
      compare: compareBytes,
      entry: (entry) => this.#table(entry),
    });
    this.freeList((bytes, entry) => this.#free(bytes, entry));
  }

  /** Walks the list of free pages: each record's transaction, and the pages that it gave back. */
  freeList(record: (bytes: Buffer, entry: Entry) => void): void {
    const { freeTree, transaction } = this.#file.newest;
    this.#tree(freeTree, 'the list of free pages', 0, transaction, {
      compare: compareNumbers,
      entry: (entry) => {
        const { key, number, flags, bytes } = entry;
        const since = key.end - key.at === 8 ? numberAt(key.page, key.at) : 0;
        if (since < 1 || since > transaction || flags & NODE_TREE || bytes % 8 !== 0 || bytes === 0)
          throw damagedPage(number, 'holds a damaged list of free pages');
        record(this.#valueOf(entry), entry);
      },
    });
  }

  #table(entry: Entry): void {
    const { page, number, key, value, bytes, flags, level } = entry;
    const name = nameOfTable(page.toString('latin1', key.at, key.end));
    if (name === undefined || flags !== NODE_TREE || bytes !== TREE_BYTES)
      throw damagedPage(number, 'holds a damaged name of a table');
    const seed = seedOf(name);
    this.#tree(tableAt(page, value, number), `the table ${name}`, level + 1, numberAt(page, 8), {
      compare: compareBytes,
      entry: (row) => {
        if (row.flags & NODE_TREE) throw damagedPage(row.number);
        if (!this.#isSound(row, seed))
          this.#damagedRow({
            table: name,
            key: Buffer.from(row.page.subarray(row.key.at, row.key.end)),
            page: row.number,
          });
      },
    });
  }

  #tree(tree: Tree, what: string, level: number, writtenBefore: number, kind: Kind): void {
    const counts: Counts = { branchPages: 0, leafPages: 0, overflowPages: 0, entries: 0 };
    if (tree.root !== undefined)
      this.#node(tree.root, tree.depth, level, writtenBefore, kind, counts, undefined, undefined);
    const { branchPages, leafPages, overflowPages, entries } = counts;
    const right =
      branchPages === tree.branchPages &&
      leafPages === tree.leafPages &&
      overflowPages === tree.overflowPages &&
      entries === tree.entries;
    if (!right)
      throw new Damage(
        `is damaged: ${what} (from page ${tree.root ?? 'none'} on) has ${entries} entries, not ${tree.entries}, on ` +
          `${branchPages + leafPages + overflowPages} pages, not ${tree.branchPages + tree.leafPages + tree.overflowPages}`,
      );
  }

  /** Checks a page and what is below it. Its keys are not below `low`, and below `high`. */
  #node(
    number: number,
    depth: number,
    level: number,
    writtenBefore: number,
    kind: Kind,
    counts: Counts,
    low: Key | undefined,
    high: Key | undefined,
  ): void {
    this.#pages[level] ??= Buffer.allocUnsafe(this.#file.pageSize);
    const page = this.#pages[level];
    this.#take(number, 1);
    const flags = this.#file.page(page, number, writtenBefore);
    const branch = depth > 1;
    if (flags !== (branch ? PAGE_BRANCH : PAGE_LEAF)) throw damagedPage(number);
    if (branch) counts.branchPages++;
    else counts.leafPages++;
    const room = this.#file.pageSize - PAGE_HEADER;
    const lower = page.readUInt16LE(20);
    const upper = page.readUInt16LE(22);
    if (lower & 1 || lower < 2 || lower > upper || upper > room) throw damagedPage(number);
    const writtenAt = numberAt(page, 8);
    let used = 0;
    let before = low;
    let child: number | undefined;
    for (let pointer = 0; pointer < lower; pointer += 2) {
      const offset = page.readUInt16LE(PAGE_HEADER + pointer);
      if (offset & 1 || offset < upper || offset + NODE_HEADER > room) throw damagedPage(number);
      const node = PAGE_HEADER + offset;
      const end = node + NODE_HEADER + page.readUInt16LE(node + 6);
      if (end > this.#file.pageSize) throw damagedPage(number);
      const key = { page, at: node + NODE_HEADER, end };
      // The first key of a branch stands for everything below the second one.
      if (!branch || pointer > 0) {
        if (key.at === end) throw damagedPage(number);
        const order = before ? kind.compare(before, key) : -1;
        if (order > 0 || (order === 0 && before !== low) || (high && kind.compare(key, high) >= 0))
          throw damagedPage(number, 'has keys out of order');
      }
      if (branch) {
        // An entry of a branch is a child's number in 6 bytes.
        if (child !== undefined) this.#node(child, depth - 1, level + 1, writtenAt, kind, counts, before, key);
        child = page.readUIntLE(node, 6);
        used += even(end - node);
        if (pointer > 0) before = key;
      } else {
        used += even(this.#leafEntry(page, number, node, key, level, kind, counts) - node);
        before = key;
      }
    }
    if (child !== undefined) this.#node(child, depth - 1, level + 1, writtenAt, kind, counts, before, high);
    if (used !== room - upper) throw damagedPage(number);
  }

  /** Checks an entry of a leaf and returns where it ends. */
  #leafEntry(page: Buffer, number: number, node: number, key: Key, level: number, kind: Kind, counts: Counts): number {
    // A leaf's entry is a length in 4 bytes and flags in 2.
    const bytes = page.readUInt32LE(node);
    const flags = page.readUInt16LE(node + 4);
    if (flags & ~(NODE_BIG | NODE_TREE)) throw damagedPage(number);
    const value = key.end;
    const end = value + (flags & NODE_BIG ? BIG_BYTES : bytes);
    if (end > this.#file.pageSize) throw damagedPage(number);
    const long = flags & NODE_BIG ? this.#longValue(page, value, bytes, level + 1, counts) : 0;
    counts.entries++;
    kind.entry({ page, number, key, value, bytes, flags, long, level });
    return end;
  }

  /** Checks the first page of a long value, and returns its number. */
  #longValue(page: Buffer, at: number, bytes: number, level: number, counts: Counts): number {
    const number = numberAt(page, at);
    const [writtenAt, pages] = [numberAt(page, at + 8), numberAt(page, at + 16)];
    this.#take(number, pages);
    this.#pages[level] ??= Buffer.allocUnsafe(this.#file.pageSize);
    const header = this.#pages[level].subarray(0, PAGE_HEADER);
    const flags = this.#file.page(header, number, numberAt(page, 8));
    const right =
      flags === PAGE_OVERFLOW &&
      header.readUInt32LE(20) === pages &&
      numberAt(header, 8) === writtenAt &&
      // A shorter value that takes the place of a longer one keeps its pages.
      PAGE_HEADER + bytes <= pages * this.#file.pageSize;
    if (!right) throw damagedPage(number);
    this.#file.within(number, pages);
    counts.overflowPages += pages;
    return number;
  }

  #isSound({ page, key, value, bytes, long }: Entry, seed: number): boolean {
    const length = bytes - CHECKSUM_BYTES;
    if (length < 0) return false;
    // A short row's key and value stand side by side.
    if (long === 0) return crc32(page.subarray(key.at, value + length), seed) === page.readUInt32LE(value + length);
    let checksum = crc32(page.subarray(key.at, key.end), seed);
    if (this.#chunk.length === 0) this.#chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const start = long * this.#file.pageSize + PAGE_HEADER;
    for (let at = 0; at < length; at += CHUNK_BYTES) {
      const part = this.#chunk.subarray(0, Math.min(CHUNK_BYTES, length - at));
      this.#file.read(part, start + at);
      checksum = crc32(part, checksum);
    }
    const stored = this.#chunk.subarray(0, CHECKSUM_BYTES);
    this.#file.read(stored, start + length);
    return stored.readUInt32LE(0) === checksum;
  }

  #valueOf({ page, value, bytes, long }: Entry): Buffer {
    if (long === 0) return page.subarray(value, value + bytes);
    const whole = Buffer.allocUnsafe(bytes);
    this.#file.read(whole, long * this.#file.pageSize + PAGE_HEADER);
    return whole;
  }

  /**
   * Counts the pages of a record of the free list. It says how many words follow; a word is 0 (a gap), a page, or, as a
   * negative number, how many pages there are from the page in the next word on.
   */
  #free(bytes: Buffer, { number }: Entry): void {
    const damaged = () => damagedPage(number, 'holds a damaged list of free pages');
    const words = numberAt(bytes, 0);
    if ((words + 1) * 8 > bytes.length) throw damaged();
    for (let word = 1; word <= words; word++) {
      const value = bytes.readBigInt64LE(word * 8);
      if (value === 0n) continue;
      if (value > 0n) {
        this.#take(numberAt(bytes, word * 8), 1);
        continue;
      }
      if (++word > words) throw damaged();
      this.#take(numberAt(bytes, word * 8), value < -0xffff_ffffn ? Number.MAX_SAFE_INTEGER : Number(-value));
    }
  }

  /** Counts pages in use, or free: each may be only one of it, and once. */
  #take(number: number, count: number): void {
    const { lastPage } = this.#file.newest;
    if (number < 2 || count < 1 || number > lastPage || count > lastPage - number + 1)
      throw new Damage(`is damaged: something points to page ${number}`);
    for (let page = number; page < number + count; page++) {
      const bit = 1 << (page & 7);
      const at = page >>> 3;
      if ((this.#taken[at] as number) & bit) throw damagedPage(page, 'is in use twice, or in use and free');
      this.#taken[at] = (this.#taken[at] as number) | bit;
    }
  }
}

function even(bytes: number): number {
  return bytes + (bytes & 1);
}

function compareBytes(a: Key, b: Key): number {
  return a.page.compare(b.page, b.at, b.end, a.at, a.end);
}

function compareNumbers(a: Key, b: Key): number {
  for (const { page, at, end } of [a, b])
    if (end - at !== 8) throw damagedPage(numberAt(page, 0), 'holds a damaged list of free pages');
  return numberAt(a.page, a.at) - numberAt(b.page, b.at);
}
