import { crc32 } from 'node:zlib';
import { MeshError } from './errors.js';
import { CHECKSUM_BYTES, seedOf } from './lmdb-row.js';

/** A part of a table, in key order: from `start` on, up to and without `end`, at most `limit` rows. */
export interface Range<K> {
  readonly start?: K;
  readonly end?: K;
  readonly limit?: number;
}

/** What a table uses of lmdb's database. */
export interface Rows<K> {
  get(key: K): Buffer | undefined;
  getKeys(range: Range<K>): Iterable<K>;
  getRange(range: Range<K>): Iterable<{ key: K; value: Buffer }>;
  put(key: K, value: Buffer): unknown;
  remove(key: K): unknown;
}

/** How keys of a table are stored: in the order of their bytes. */
export interface KeyCodec<K> {
  writeKey(key: K, target: Buffer, start: number): number;
  readKey(target: Buffer, start: number, end: number): K;
  /** The CRC-32 of a key as it is stored, going on from `seed`. */
  checksum(key: K, seed: number): number;
  /** How a key is called in the log. */
  textOf(key: K): string;
  /** Below every other key. */
  readonly lowest: K;
}

/** Text of ASCII characters. It is written into lmdb's own buffer: one of its own for each key costs three times as much. */
export const TEXT_KEYS: KeyCodec<string> = {
  writeKey: (key, target, start) => start + target.write(key, start, 'latin1'),
  readKey: (target, start, end) => target.toString('latin1', start, end),
  checksum: (key, seed) => crc32(key, seed),
  textOf: (key) => key,
  lowest: '\u0001',
};

const WORD = 2 ** 32;
const numberBytes = Buffer.alloc(8);

/** Integers from 0 to 2^53. */
export const NUMBER_KEYS: KeyCodec<number> = {
  writeKey: writeNumber,
  readKey: (target, start) => target.readUInt32BE(start) * WORD + target.readUInt32BE(start + 4),
  checksum(key, seed) {
    writeNumber(key, numberBytes, 0);
    return crc32(numberBytes, seed);
  },
  textOf: (key) => key.toString(16).padStart(16, '0'),
  lowest: 0,
};

/** Bytes. */
export const BYTE_KEYS: KeyCodec<Buffer> = {
  writeKey: (key, target, start) => start + key.copy(target, start),
  readKey: (target, start, end) => Buffer.from(target.subarray(start, end)),
  checksum: (key, seed) => crc32(key, seed),
  textOf: (key) => key.toString('hex'),
  lowest: Buffer.from([0]),
};

/** How the key of any table is called in the log, from how it is stored. */
export function textOfStored(key: Buffer): string {
  const text = key.toString('latin1');
  return /^[\x20-\x7e]+$/.test(text) ? text : key.toString('hex');
}

/** Whether the tables of an environment may be touched. */
export class Access {
  /** Goes from false to true once, in the turn in which lmdb begins to close. */
  closed = false;
}

/** What stands in a row whose checksum is not its own. */
export class DamagedRow {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** A value to fill and to hand to {@link Table.put}: it has `bytes` bytes, and behind them those that the table writes. */
export function newRow(bytes: number): Buffer {
  return Buffer.allocUnsafe(bytes + CHECKSUM_BYTES);
}

/** A value that is bytes, which are copied. */
export function rowOfBytes(bytes: Uint8Array): Buffer {
  const row = newRow(bytes.length);
  row.set(bytes);
  return row;
}

/** A value that is a number. */
export function rowOfNumber(value: number): Buffer {
  const row = newRow(8);
  row.writeDoubleLE(value);
  return row;
}

/** The number in a row; undefined where there is none, or a damaged one. */
export function numberIn(row: Buffer | DamagedRow | undefined): number | undefined {
  return row instanceof DamagedRow ? undefined : row?.readDoubleLE();
}

/**
 * Rows in key order, of an environment that may be closed while somebody reads. Each bears the checksum of `lmdb-row.ts`, which
 * is checked whenever it is read: what is damaged is handed out as a {@link DamagedRow}, and reported.
 *
 * From the moment that lmdb begins to close, a read would run on a transaction that is gone, which ends the process by a
 * signal: so it is refused. For the same reason no iterator leaves this class: one that is walked across an `await` could meet a
 * closed environment at any of its steps.
 */
export class Table<K> {
  readonly #rows: Rows<K>;
  readonly #keys: KeyCodec<K>;
  readonly #access: Access;
  readonly #seed: number;
  readonly #damaged: (key: string) => void;

  /** @param damaged is told the key of each row that is read damaged. */
  constructor(rows: Rows<K>, name: string, keys: KeyCodec<K>, access: Access, damaged: (key: string) => void) {
    this.#rows = rows;
    this.#keys = keys;
    this.#access = access;
    this.#seed = seedOf(name);
    this.#damaged = damaged;
  }

  /** @throws MeshError `unavailable` once the environment is closing. */
  get(key: K): Buffer | DamagedRow | undefined {
    if (this.#access.closed) throw closingError();
    const row = this.#rows.get(key);
    return row && this.#checked(key, row);
  }

  /** The keys alone: of them damage is not noticed. @throws MeshError `unavailable` once the environment is closing. */
  keys(range: Range<K>): K[] {
    if (this.#access.closed) throw closingError();
    return [...this.#rows.getKeys(this.#from(range))];
  }

  /**
   * Hands over row after row, within the call.
   *
   * @throws MeshError `unavailable` once the environment is closing.
   */
  forEach(range: Range<K>, visit: (key: K, value: Buffer | DamagedRow) => void): void {
    if (this.#access.closed) throw closingError();
    for (const { key, value } of this.#rows.getRange(this.#from(range))) visit(key, this.#checked(key, value));
  }

  /** Stores a {@link newRow}. Only within the environment's `write`, which says what became of it. */
  put(key: K, row: Buffer): void {
    const end = row.length - CHECKSUM_BYTES;
    row.writeUInt32LE(this.#checksum(key, row.subarray(0, end)), end);
    void this.#rows.put(key, row);
  }

  /** Only within the environment's `write`, which says what became of it. */
  remove(key: K): void {
    void this.#rows.remove(key);
  }

  #from(range: Range<K>): Range<K> {
    return range.start === undefined ? { ...range, start: this.#keys.lowest } : range;
  }

  #checked(key: K, row: Buffer): Buffer | DamagedRow {
    const end = row.length - CHECKSUM_BYTES;
    if (end < 0) return this.#reported(key, row);
    const bytes = row.subarray(0, end);
    return this.#checksum(key, bytes) === row.readUInt32LE(end) ? bytes : this.#reported(key, bytes);
  }

  #reported(key: K, bytes: Buffer): DamagedRow {
    this.#damaged(this.#keys.textOf(key));
    return new DamagedRow(bytes);
  }

  #checksum(key: K, bytes: Buffer): number {
    return crc32(bytes, this.#keys.checksum(key, this.#seed));
  }
}

function writeNumber(key: number, target: Buffer, start: number): number {
  target.writeUInt32BE(Math.floor(key / WORD), start);
  target.writeUInt32BE(key % WORD, start + 4);
  return start + 8;
}

export function closingError(): MeshError {
  return new MeshError('unavailable', 'the store is closing');
}
