import { IdTable } from './id-table.js';

/** Remembers where the latest ids stand first, by positions of one width. Whole generations are forgotten, the older half at a time. */
export class RecentIds {
  readonly #half: number;
  #young: Generation;
  #old: Generation;

  /** @param capacity how many ids are remembered at the most. */
  constructor(capacity: number) {
    this.#half = capacity / 2;
    this.#young = new Generation(this.#half);
    this.#old = new Generation(this.#half);
  }

  /** The first position at which an id was seen of late. */
  find(id: string): string | undefined {
    return this.#young.get(id) ?? this.#old.get(id);
  }

  /** The earlier position at which an id was seen of late; undefined where there is none, and this one is remembered as its first. */
  seenBefore(id: string, position: string): string | undefined {
    const known = this.find(id);
    if (known !== undefined && known <= position) return known < position ? known : undefined;
    if (this.#young.size >= this.#half) {
      const forgotten = this.#old;
      forgotten.clear();
      this.#old = this.#young;
      this.#young = forgotten;
    }
    this.#young.set(id, position);
    return undefined;
  }
}

/** A map from the latest UUIDs to numbers of 0 and more. Whole generations are forgotten, the older half at a time. */
export class RecentIdMap {
  readonly #half: number;
  #young = new IdTable();
  #old = new IdTable();

  /** @param capacity how many ids are remembered at the most, some 50 bytes each. */
  constructor(capacity: number) {
    this.#half = capacity / 2;
  }

  /** How many entries there are; an id that was set again may count twice. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  get(id: string): number | undefined {
    return this.#young.get(id) ?? this.#old.get(id);
  }

  set(id: string, value: number): void {
    if (this.#young.size >= this.#half && this.#young.get(id) === undefined) {
      const forgotten = this.#old;
      forgotten.clear();
      this.#old = this.#young;
      this.#young = forgotten;
    }
    this.#young.set(id, value);
  }
}

class Generation {
  /** By id, the index of its position. */
  readonly #ids = new IdTable();
  readonly #capacity: number;
  /** Text of one width; bytes, because ten thousands of strings would be copied by the garbage collector. */
  #positions: Buffer | undefined;
  #width = 0;
  #size = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get size(): number {
    return this.#size;
  }

  get(id: string): string | undefined {
    const index = this.#ids.get(id);
    if (index === undefined) return undefined;
    return this.#positions?.toString('latin1', index * this.#width, (index + 1) * this.#width);
  }

  set(id: string, position: string): void {
    if (!this.#positions) {
      this.#width = position.length;
      this.#positions = Buffer.alloc(this.#capacity * this.#width);
    }
    this.#positions.write(position, this.#size * this.#width, this.#width, 'latin1');
    this.#ids.set(id, this.#size++);
  }

  clear(): void {
    this.#ids.clear();
    this.#size = 0;
  }
}
