import { fstatSync, readSync } from 'node:fs';

/*
 * The layout of LMDB's data file (data format 2 of lmdb-js's LMDB 0.9.90, 64 bits, little endian). All offsets are bytes.
 *
 * A page begins with its number (8), the transaction that wrote it (8), padding (2), flags (2), and the bounds of its free
 * space (2 + 2) or, of a long value's first page, how many pages the value has (4).
 */
export const PAGE_HEADER = 24;
export const NODE_HEADER = 8;
export const PAGE_BRANCH = 0x01;
export const PAGE_LEAF = 0x02;
export const PAGE_OVERFLOW = 0x04;
const PAGE_META = 0x08;
/** The value has pages of its own; in the leaf stand the first one's number, who wrote it, and how many they are. */
export const NODE_BIG = 0x01;
/** The value describes a tree. */
export const NODE_TREE = 0x02;
export const BIG_BYTES = 24;
export const TREE_BYTES = 48;
const META_BYTES = 144;
const META_MAGIC = 0xbeefc0de;
const META_VERSION = 2;
/** Where a meta page keeps its fields, counted from the page's start. */
const META = { magic: 24, version: 28, address: 32, freeTree: 48, mainTree: 96, lastPage: 144, transaction: 152 };
/** Where a tree's description keeps its fields. */
const TREE = { pad: 0, flags: 4, depth: 6, branchPages: 8, leafPages: 16, overflowPages: 24, entries: 32, root: 40 };
/** In place of the root of an empty tree. */
const NO_PAGE = 0xffff_ffff_ffff_ffffn;
const MAX_DEPTH = 32;
/** The free list is a tree whose keys are numbers in the machine's order. */
const INTEGER_KEYS = 0x08;
/**
 * The file ends before the last page that was ever given out where the last ones were given back within the transaction: it may
 * lack no more than one transaction can need.
 */
const MAX_PAGES_BEHIND_END = 1 << 20;

/** What is wrong with a file, as the end of a sentence that begins with its name. */
export class Damage extends Error {}

export function damagedPage(number: number, how = 'does not hold what it should'): Damage {
  return new Damage(`is damaged: page ${number} ${how}`);
}

/** How a tree is described: by a meta page, or by a leaf of the main tree. */
export interface Tree {
  readonly depth: number;
  readonly branchPages: number;
  readonly leafPages: number;
  readonly overflowPages: number;
  readonly entries: number;
  /** Undefined of an empty tree. */
  readonly root: number | undefined;
}

/** A snapshot, as its meta page describes it. */
export interface Snapshot {
  readonly transaction: number;
  readonly lastPage: number;
  readonly freeTree: Tree;
  readonly mainTree: Tree;
}

/** An LMDB data file that is open for reading, with the newest snapshot that it holds. */
export class PageFile {
  readonly pageSize: number;
  readonly bytes: number;
  readonly newest: Snapshot;
  readonly #descriptor: number;

  /**
   * Reads both meta pages.
   *
   * @throws Damage
   */
  constructor(descriptor: number) {
    this.#descriptor = descriptor;
    this.bytes = fstatSync(descriptor).size;
    const first = Buffer.alloc(PAGE_HEADER + META_BYTES);
    this.read(first, 0);
    checkStart(first, 0);
    const pageSize = first.readUInt32LE(META.freeTree + TREE.pad);
    if (pageSize < 512 || pageSize > 65_536 || pageSize & (pageSize - 1))
      throw damagedPage(0, `claims pages of ${pageSize} bytes`);
    this.pageSize = pageSize;
    const second = Buffer.alloc(PAGE_HEADER + META_BYTES);
    this.read(second, pageSize);
    checkStart(second, 1);
    const snapshots = [this.#snapshot(first, 0), this.#snapshot(second, 1)] as const;
    // Each transaction is on the disk, in the meta page of its parity, before the next one begins.
    const ahead = snapshots[1].transaction - snapshots[0].transaction;
    if (Math.abs(ahead) > 1) throw damagedPage(ahead > 0 ? 0 : 1, 'is out of step');
    this.newest = ahead > 0 ? snapshots[1] : snapshots[0];
    // Every transaction writes the first page of the main tree anew, and keeps that of the snapshot before.
    for (const [number, { mainTree, transaction }] of snapshots.entries()) {
      if (mainTree.root === undefined) continue;
      const root = Buffer.alloc(PAGE_HEADER);
      this.page(root, mainTree.root, transaction);
      if (numberAt(root, 8) !== transaction) throw damagedPage(number, 'is out of step');
    }
  }

  /** Fills a buffer with the bytes at an offset. @throws Damage */
  read(into: Uint8Array, at: number): void {
    for (let filled = 0; filled < into.length; ) {
      const count = readSync(this.#descriptor, into, filled, into.length - filled, at + filled);
      if (count === 0) throw new Damage(`has been cut short: it ends at byte ${this.bytes}`);
      filled += count;
    }
  }

  /** Reads a page, or as much of it as `into` takes, with its number and its writer checked; returns its flags. @throws Damage */
  page(into: Buffer, number: number, writtenBefore: number): number {
    this.within(number, 1);
    this.read(into, number * this.pageSize);
    if (numberAt(into, 0) !== number) throw damagedPage(number, 'bears another number');
    if (numberAt(into, 8) > writtenBefore) throw damagedPage(number, 'is newer than what points to it');
    return into.readUInt16LE(18);
  }

  /** Checks that pages in use lie where there can be some. @throws Damage */
  within(number: number, count: number): void {
    if (number < 2 || number + count - 1 > this.newest.lastPage)
      throw new Damage(`is damaged: something points to page ${number}`);
    if ((number + count) * this.pageSize > this.bytes)
      throw new Damage(`has been cut short: page ${number + count - 1} lies behind its end`);
  }

  #snapshot(page: Buffer, number: number): Snapshot {
    const [transaction, lastPage] = [numberAt(page, META.transaction), numberAt(page, META.lastPage)];
    if (transaction > 1 && transaction % 2 !== number) throw damagedPage(number, 'is out of step');
    const sizes = [page.readUInt32LE(META.freeTree + TREE.pad), page.readUInt32LE(META.mainTree + TREE.pad)];
    const flags = [page.readUInt16LE(META.freeTree + TREE.flags), page.readUInt16LE(META.mainTree + TREE.flags)];
    if (sizes[0] !== this.pageSize || sizes[1] !== 0 || flags[0] !== INTEGER_KEYS || flags[1] !== 0)
      throw damagedPage(number);
    if (page.readBigUInt64LE(META.address) !== 0n) throw damagedPage(number);
    if (lastPage < 1 || (lastPage - MAX_PAGES_BEHIND_END) * this.pageSize > this.bytes)
      throw damagedPage(number, `claims ${lastPage + 1} pages`);
    return {
      transaction,
      lastPage,
      freeTree: treeAt(page, META.freeTree, number),
      mainTree: treeAt(page, META.mainTree, number),
    };
  }
}

/** Reads the description of a tree that stands on a page. @throws Damage */
export function treeAt(page: Buffer, at: number, number: number): Tree {
  const depth = page.readUInt16LE(at + TREE.depth);
  const tree = {
    depth,
    branchPages: numberAt(page, at + TREE.branchPages),
    leafPages: numberAt(page, at + TREE.leafPages),
    overflowPages: numberAt(page, at + TREE.overflowPages),
    entries: numberAt(page, at + TREE.entries),
    root: page.readBigUInt64LE(at + TREE.root) === NO_PAGE ? undefined : numberAt(page, at + TREE.root),
  };
  const counts = tree.branchPages + tree.leafPages + tree.overflowPages + tree.entries;
  if (tree.root === undefined ? depth + counts !== 0 : depth < 1 || depth > MAX_DEPTH)
    throw damagedPage(number, 'describes a tree that cannot be');
  return tree;
}

/** The description of a table: as {@link treeAt}, with its options, of which none is used. @throws Damage */
export function tableAt(page: Buffer, at: number, number: number): Tree {
  if (page.readUInt32LE(at + TREE.pad) !== 0 || page.readUInt16LE(at + TREE.flags) !== 0) throw damagedPage(number);
  return treeAt(page, at, number);
}

/** Numbers of pages and transactions have 64 bits, of which files use fewer than 48. */
export function numberAt(page: Buffer, at: number): number {
  return page.readUInt16LE(at + 6) === 0 ? page.readUIntLE(at, 6) : Number.MAX_SAFE_INTEGER;
}

function checkStart(page: Buffer, number: number): void {
  const right =
    numberAt(page, 0) === number &&
    page.readUInt16LE(18) === PAGE_META &&
    page.readUInt32LE(META.magic) === META_MAGIC &&
    page.readUInt32LE(META.version) === META_VERSION;
  if (!right) throw damagedPage(number, 'is not the start of an LMDB file');
}
