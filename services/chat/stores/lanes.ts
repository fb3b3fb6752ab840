import { ChurnMap } from '@chatmesh/mesh';

interface Lane {
  tail: Promise<unknown>;
  /** Work that runs or waits. */
  working: number;
  /** Work that was ever begun here. */
  begun: number;
  watchers: number;
}

/** Whether a lane stayed empty. */
export interface Watch {
  /** True when no work was in the lane, and none came, since the watch began. */
  readonly undisturbed: boolean;
  /** To be called once. */
  end(): void;
}

/** Lets pieces of work that share a key follow one another, in the order in which they came. Memory is bounded by what runs. */
export class Lanes {
  readonly #lanes = new ChurnMap<string, Lane>();

  /** Runs `work` after all that came before it on any of these keys. Settles as the work does. */
  async enter<T>(keys: readonly string[], work: () => Promise<T>): Promise<T> {
    const lanes = keys.map((key) => this.#lane(key));
    const before = Promise.all(lanes.map((lane) => lane.tail));
    const done = before.then(work);
    const tail = done.catch(() => {});
    for (const lane of lanes) {
      lane.tail = tail;
      lane.working++;
      lane.begun++;
    }
    try {
      return await done;
    } finally {
      for (const [i, lane] of lanes.entries()) {
        lane.working--;
        this.#drop(keys[i] as string, lane);
      }
    }
  }

  /** Looks whether a key's lane stays empty. */
  watch(key: string): Watch {
    const lane = this.#lane(key);
    const { working, begun } = lane;
    lane.watchers++;
    return {
      get undisturbed() {
        return working === 0 && lane.begun === begun;
      },
      end: () => {
        lane.watchers--;
        this.#drop(key, lane);
      },
    };
  }

  /** Resolves when all work that has come so far is done. */
  async settled(): Promise<void> {
    await Promise.all([...this.#lanes.values()].map((lane) => lane.tail));
  }

  #lane(key: string): Lane {
    let lane = this.#lanes.get(key);
    if (!lane) {
      lane = { tail: Promise.resolve(), working: 0, begun: 0, watchers: 0 };
      this.#lanes.set(key, lane);
    }
    return lane;
  }

  #drop(key: string, lane: Lane): void {
    if (lane.working === 0 && lane.watchers === 0) this.#lanes.delete(key);
  }
}
