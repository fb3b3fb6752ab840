import { IdTable } from './id-table.js';

/** Remembers where the latest ids stand first. Whole generations are forgotten, the older half at a time. */
export class RecentIds {
  readonly #half: number;
  #young = new Generation();
  #old = new Generation();

  /** @param capacity how many ids are remembered at the most. */
  constructor(capacity: number) {
    this.#half = capacity / 2;
  }

  /** True when the id was seen at an earlier position of late; else the position is remembered as its first. */
  seenBefore(id: string, position: string): boolean {
    const known = this.#young.get(id) ?? this.#old.get(id);
    if (known !== undefined && known <= position) return known < position;
    if (this.#young.size >= this.#half) {
      const forgotten = this.#old;
      forgotten.clear();
      this.#old = this.#young;
      this.#young = forgotten;
    }
    this.#young.set(id, position);
    return false;
  }
}

class Generation {
  /** Indexes of {@link #positions}. */
  readonly #ids = new IdTable();
  #positions: string[] = [];

  get size(): number {
    return this.#positions.length;
  }

  get(id: string): string | undefined {
    const index = this.#ids.get(id);
    return index === undefined ? undefined : this.#positions[index];
  }

  set(id: string, position: string): void {
    this.#ids.set(id, this.#positions.length);
    this.#positions.push(position);
  }

  clear(): void {
    this.#ids.clear();
    this.#positions = [];
  }
}
