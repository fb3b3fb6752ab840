import type { InboxRow, InboxStore } from '@chatmesh/chat';
import type { Host } from '../world.js';
import { Remote, type Temper } from './remote.js';

/** A row, or where one was; a write that is older than the last one has no effect, as with the timestamps of Cassandra. */
interface Cell {
  readonly row: InboxRow | undefined;
  readonly write: number;
}

/** Inboxes in memory, shared by all routers of a world. */
export class SimulatedInbox {
  /** By device, by position. */
  readonly #cells = new Map<string, Map<string, Cell>>();
  #writes = 0;

  /** The store as one process reaches it. */
  of(host: Host, temper: Temper): InboxStore {
    const remote = new Remote(host, temper);
    const set = (cells: Map<string, Cell>, position: string, cell: Cell) => {
      const known = cells.get(position);
      if (!known || known.write < cell.write) cells.set(position, cell);
    };
    return {
      append: (rows) => {
        const write = ++this.#writes;
        return remote.call(() => {
          for (const row of rows) set(this.#device(row.userId, row.deviceId), row.position, { row, write });
        });
      },
      page: (userId, deviceId, after, limit) =>
        remote.call(() =>
          this.rows(userId, deviceId)
            .filter(({ position }) => after === undefined || position > after)
            .slice(0, limit),
        ),
      remove: (userId, deviceId, positions) => {
        const write = ++this.#writes;
        return remote.call(() => {
          for (const position of positions) set(this.#device(userId, deviceId), position, { row: undefined, write });
        });
      },
      clear: (userId, deviceId) => remote.call(() => void this.#cells.delete(`${userId}/${deviceId}`)),
      aged: () => Promise.resolve([]),
      forgetWeeks: () => Promise.resolve(),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }

  /** What waits for a device, in order. */
  rows(userId: string, deviceId: string): InboxRow[] {
    const rows = [...this.#device(userId, deviceId).values()].flatMap(({ row }) => row ?? []);
    return rows.sort((a, b) => (a.position < b.position ? -1 : 1));
  }

  /** How many rows wait for any device. */
  get size(): number {
    let size = 0;
    for (const cells of this.#cells.values()) for (const { row } of cells.values()) if (row) size++;
    return size;
  }

  #device(userId: string, deviceId: string): Map<string, Cell> {
    const key = `${userId}/${deviceId}`;
    const cells = this.#cells.get(key) ?? new Map<string, Cell>();
    this.#cells.set(key, cells);
    return cells;
  }
}
