import { IdTable } from './id-table.js';

/** Remembers where the latest ids were seen first. Whole generations are forgotten, the older half at a time. */
export class RecentIds {
  readonly #half: number;
  #young = new IdTable();
  #old = new IdTable();

  /** @param capacity how many ids are remembered at the most. */
  constructor(capacity: number) {
    this.#half = capacity / 2;
  }

  /** True when the id was seen at another position of late; else the position is remembered. */
  seenElsewhere(id: string, position: string): boolean {
    const mark = markOf(position);
    const earlier = this.#young.get(id) ?? this.#old.get(id);
    if (earlier !== undefined) return earlier !== mark;
    if (this.#young.size >= this.#half) {
      const forgotten = this.#old;
      forgotten.clear();
      this.#old = this.#young;
      this.#young = forgotten;
    }
    this.#young.set(id, mark);
    return false;
  }
}

/** 53 bits that stand for a position: two of one id that share them are not to be expected. */
function markOf(position: string): number {
  let low = 0x811c9dc5;
  let high = 0x01000193;
  for (let i = 0; i < position.length; i++) {
    const code = position.charCodeAt(i);
    low = Math.imul(low ^ code, 0x01000193);
    high = Math.imul(high ^ code, 0x85ebca6b);
  }
  return (low >>> 0) + ((high >>> 11) & 0x1fffff) * 2 ** 32;
}
