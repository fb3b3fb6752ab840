/** A table is left behind after so many entries have come, and so many more for each that is in it, which has to be copied. */
const SPARE = 64;
const SHARE = 4;
const NOTHING: readonly never[] = [];

/**
 * A Map through which entries pass by the thousand while it stays.
 *
 * V8 links every table that a Map has outgrown to the next one (`OrderedHashTable::Rehash` sets its next table, for the
 * sake of iterators). Once one of them is old, which takes no more than a quiet moment, a collection of young garbage
 * takes all later ones for reachable, each with the entries that it had: everything that passes through the Map from then
 * on is copied twice and becomes old, until all memory is collected. Here a new Map begins before the chain grows long.
 *
 * An iteration does not see what is set meanwhile, and may still see what is deleted once something was set.
 */
export class ChurnMap<K, V> {
  /** Made when it is used: most of those who have one are idle, and an empty Map costs 200 bytes. */
  #map: Map<K, V> | undefined;
  /** How many entries have come since the table was new. */
  #came = 0;

  get size(): number {
    return this.#map ? this.#map.size : 0;
  }

  get(key: K): V | undefined {
    return this.#map?.get(key);
  }

  has(key: K): boolean {
    return this.#map?.has(key) ?? false;
  }

  set(key: K, value: V): void {
    if (!this.#map || ++this.#came > SPARE + SHARE * this.#map.size) {
      this.#map = new Map(this.#map);
      this.#came = 1;
    }
    this.#map.set(key, value);
  }

  delete(key: K): boolean {
    return this.#map?.delete(key) ?? false;
  }

  clear(): void {
    this.#map = undefined;
  }

  keys(): IterableIterator<K> {
    return this.#map?.keys() ?? NOTHING.values();
  }

  values(): IterableIterator<V> {
    return this.#map?.values() ?? NOTHING.values();
  }
}

/** A Set through which values pass by the thousand while it stays: see {@link ChurnMap}. */
export class ChurnSet<T> {
  readonly #map = new ChurnMap<T, true>();

  get size(): number {
    return this.#map.size;
  }

  has(value: T): boolean {
    return this.#map.has(value);
  }

  add(value: T): void {
    this.#map.set(value, true);
  }

  delete(value: T): boolean {
    return this.#map.delete(value);
  }

  clear(): void {
    this.#map.clear();
  }

  [Symbol.iterator](): IterableIterator<T> {
    return this.#map.keys();
  }
}
