import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

// The layout of LMDB's pages (data format 2, 64 bits, little endian), as far as pointers are followed.
const PAGE_HEADER = 24;
const NODE_HEADER = 8;
const PAGE_BRANCH = 0x01;
const PAGE_LEAF = 0x02;
const PAGE_OVERFLOW = 0x04;
const PAGE_META = 0x08;
const NODE_BIG = 0x01;
const NODE_TREE = 0x02;
const META_BYTES = 144;
const META_MAGIC = 0xbeefc0de;
const META_VERSION = 2;
/** Where a meta page keeps its fields, counted from the page's start. */
const META = { magic: 24, version: 28, pageSize: 48, freeTree: 48, mainTree: 96, lastPage: 144, transaction: 152 };
/** Where a tree's description keeps its fields. */
const TREE = { depth: 6, root: 40, bytes: 48 };
const MAX_DEPTH = 32;
/** In place of the root of an empty tree. */
const NO_PAGE = 0xffff_ffff_ffff_ffffn;

class Damage extends Error {}

/**
 * Looks for damage in an LMDB data file before it is mapped into memory, where a page that is missing or points astray
 * would end the process by a signal.
 *
 * Follows every pointer of the newest snapshot: both meta pages, the header and all entries of each branch and leaf page,
 * and the header of each long value must be in place, in bounds and their own (each page bears its number). The bytes of
 * keys and values are not looked into; what needs that carries its own checksum. Takes some microseconds for each page.
 *
 * @returns what is wrong, or undefined.
 * @throws what the file system says when the file cannot be read.
 */
export function findDamage(file: string): string | undefined {
  const descriptor = openSync(file, 'r');
  try {
    new Walk(descriptor).run();
    return undefined;
  } catch (error) {
    if (error instanceof Damage) return error.message;
    throw error;
  } finally {
    closeSync(descriptor);
  }
}

class Walk {
  readonly #descriptor: number;
  readonly #size: number;
  readonly #pages: Buffer[] = [];
  #pageSize = 0;
  #lastPage = 0;
  #seen = 0;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
    this.#size = fstatSync(descriptor).size;
  }

  run(): void {
    const probe = Buffer.alloc(PAGE_HEADER + META_BYTES);
    this.#read(probe, 0);
    this.#checkMeta(probe, 0);
    this.#pageSize = probe.readUInt32LE(META.pageSize);
    if (this.#pageSize < 512 || this.#pageSize > 65_536 || this.#pageSize & (this.#pageSize - 1)) {
      throw new Damage(`is damaged: page 0 claims pages of ${this.#pageSize} bytes`);
    }
    const other = Buffer.alloc(PAGE_HEADER + META_BYTES);
    this.#read(other, this.#pageSize);
    this.#checkMeta(other, 1);
    const newest = probe.readBigUInt64LE(META.transaction) >= other.readBigUInt64LE(META.transaction) ? probe : other;
    this.#lastPage = pageNumber(newest, META.lastPage);
    this.#tree(newest, META.freeTree);
    this.#tree(newest, META.mainTree);
  }

  #checkMeta(page: Buffer, number: number): void {
    const right =
      page.readUInt16LE(18) & PAGE_META &&
      page.readUInt32LE(META.magic) === META_MAGIC &&
      page.readUInt32LE(META.version) === META_VERSION;
    if (!right) throw new Damage(`is damaged: page ${number} is not the start of an LMDB file`);
    const transaction = page.readBigUInt64LE(META.transaction);
    if (transaction > 1n && Number(transaction & 1n) !== number)
      throw new Damage(`is damaged: page ${number} is out of step`);
  }

  /** Walks the tree that is described at `at`, with the buffers from `buffer` on; one without a root is empty. */
  #tree(page: Buffer, at: number, buffer = 0): void {
    if (page.readBigUInt64LE(at + TREE.root) === NO_PAGE) return;
    const depth = page.readUInt16LE(at + TREE.depth);
    const root = pageNumber(page, at + TREE.root);
    if (depth < 1 || depth > MAX_DEPTH) throw new Damage(`is damaged: the tree at page ${root} is ${depth} pages deep`);
    this.#node(root, depth, buffer);
  }

  #node(number: number, depth: number, buffer: number): void {
    // One buffer for each level: a page is still being read while those below it are.
    this.#pages[buffer] ??= Buffer.allocUnsafe(this.#pageSize);
    const page = this.#pages[buffer];
    const flags = this.#header(page, number);
    if (flags !== (depth === 1 ? PAGE_LEAF : PAGE_BRANCH)) throw damagedPage(number);
    const room = this.#pageSize - PAGE_HEADER;
    const lower = page.readUInt16LE(20);
    const upper = page.readUInt16LE(22);
    if (lower & 1 || lower < 2 || lower > upper || upper > room) throw damagedPage(number);
    for (let pointer = 0; pointer < lower; pointer += 2) {
      const offset = page.readUInt16LE(PAGE_HEADER + pointer);
      if (offset & 1 || offset < upper || offset + NODE_HEADER > room) throw damagedPage(number);
      const left = room - offset - NODE_HEADER - page.readUInt16LE(PAGE_HEADER + offset + 6);
      if (left < 0) throw damagedPage(number);
      // A branch's entry is a child's number in 6 bytes; a leaf's is a length in 4 and flags in 2.
      if (depth > 1) this.#node(page.readUIntLE(PAGE_HEADER + offset, 6), depth - 1, buffer + 1);
      else this.#leafEntry(page, number, PAGE_HEADER + offset, left, buffer);
    }
  }

  #leafEntry(page: Buffer, number: number, node: number, left: number, buffer: number): void {
    const length = page.readUInt32LE(node);
    const flags = page.readUInt16LE(node + 4);
    const value = node + NODE_HEADER + page.readUInt16LE(node + 6);
    if (flags & NODE_BIG) {
      if (left < PAGE_HEADER) throw damagedPage(number);
      this.#longValue(pageNumber(page, value), length, buffer + 1);
    } else if (length > left) throw damagedPage(number);
    else if (flags & NODE_TREE) {
      if (length !== TREE.bytes) throw damagedPage(number);
      this.#tree(page, value, buffer + 1);
    }
  }

  #longValue(number: number, length: number, buffer: number): void {
    this.#pages[buffer] ??= Buffer.allocUnsafe(this.#pageSize);
    const page = this.#pages[buffer].subarray(0, PAGE_HEADER);
    const flags = this.#header(page, number);
    const pages = page.readUInt32LE(20);
    if (flags !== PAGE_OVERFLOW || pages * this.#pageSize < PAGE_HEADER + length) throw damagedPage(number);
    this.#within(number + pages - 1);
    this.#seen += pages - 1;
  }

  /** Reads a page, or as much of it as `into` takes, and returns its flags. */
  #header(into: Buffer, number: number): number {
    this.#within(number);
    // A pointer that leads in circles.
    if (++this.#seen > this.#lastPage) throw damagedPage(number);
    this.#read(into, number * this.#pageSize);
    if (pageNumber(into, 0) !== number) throw damagedPage(number);
    return into.readUInt16LE(18);
  }

  #within(number: number): void {
    if (number < 2 || number > this.#lastPage) throw new Damage(`is damaged: something points to page ${number}`);
    if ((number + 1) * this.#pageSize > this.#size) {
      throw new Damage(`has been cut short: page ${number} lies behind its end`);
    }
  }

  #read(into: Buffer, at: number): void {
    if (readSync(this.#descriptor, into, 0, into.length, at) !== into.length) {
      throw new Damage(`has been cut short: it ends at byte ${this.#size}`);
    }
  }
}

/** Page numbers have 64 bits, of which files use fewer than 48. */
function pageNumber(page: Buffer, at: number): number {
  return page.readUInt16LE(at + 6) === 0 ? page.readUIntLE(at, 6) : Number.MAX_SAFE_INTEGER;
}

function damagedPage(number: number): Damage {
  return new Damage(`is damaged: page ${number} does not hold what it should`);
}
