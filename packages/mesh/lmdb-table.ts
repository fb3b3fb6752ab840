import { MeshError } from './errors.js';

/** A part of a table, in key order: from `start` on, up to and without `end`, at most `limit` rows. */
export interface Range<K> {
  readonly start?: K;
  readonly end?: K;
  readonly limit?: number;
}

/** What a table uses of lmdb's database. */
interface Rows<K, V> {
  get(key: K): V | undefined;
  getKeys(range: Range<K>): Iterable<K>;
  getRange(range: Range<K>): Iterable<{ key: K; value: V }>;
  put(key: K, value: V): unknown;
  remove(key: K): unknown;
}

/** Whether the tables of an environment may be touched. */
export class Access {
  /** Goes from false to true once, in the turn in which lmdb begins to close. */
  closed = false;
}

/**
 * Rows in key order, of an environment that may be closed while somebody reads.
 *
 * From the moment that lmdb begins to close, a read would run on a transaction that is gone, which ends the process by a
 * signal: so it is refused. For the same reason no iterator leaves this class: one that is walked across an `await` could meet a
 * closed environment at any of its steps.
 */
export class Table<K, V> {
  readonly #rows: Rows<K, V>;
  readonly #access: Access;

  constructor(rows: Rows<K, V>, access: Access) {
    this.#rows = rows;
    this.#access = access;
  }

  /** @throws MeshError `unavailable` once the environment is closing. */
  get(key: K): V | undefined {
    if (this.#access.closed) throw closingError();
    return this.#rows.get(key);
  }

  /** @throws MeshError `unavailable` once the environment is closing. */
  keys(range: Range<K>): K[] {
    if (this.#access.closed) throw closingError();
    return [...this.#rows.getKeys(range)];
  }

  /**
   * Hands over row after row, within the call.
   *
   * @throws MeshError `unavailable` once the environment is closing.
   */
  forEach(range: Range<K>, visit: (key: K, value: V) => void): void {
    if (this.#access.closed) throw closingError();
    for (const { key, value } of this.#rows.getRange(range)) visit(key, value);
  }

  /** Only within the environment's `write`, which says what became of it. */
  put(key: K, value: V): void {
    void this.#rows.put(key, value);
  }

  /** Only within the environment's `write`, which says what became of it. */
  remove(key: K): void {
    void this.#rows.remove(key);
  }
}

export function closingError(): MeshError {
  return new MeshError('unavailable', 'the store is closing');
}
