import type { LmdbEnvironment, Table } from '@chatmesh/mesh/lmdb';
import type { AgedInbox, InboxRow, InboxStore } from './inbox-store.js';
import type { Position } from './message-log.js';

const WEEK_MS = 7 * 24 * 3600 * 1000;
/** Weeks are listed once per device; so many of the latest listings are remembered to save the write. */
const REMEMBERED_LISTINGS = 50_000;

/** Rows in a table ordered by `user/device/position`, and a listing of `week/user/device` for the sweep. */
export class LmdbInboxStore implements InboxStore {
  readonly #environment: LmdbEnvironment;
  readonly #rows: Table<string, Buffer>;
  readonly #weeks: Table<Buffer, Buffer>;
  readonly #listed = new Set<string>();

  constructor(environment: LmdbEnvironment) {
    this.#environment = environment;
    this.#rows = environment.textTable('inbox.rows');
    this.#weeks = environment.table('inbox.weeks');
  }

  append(rows: readonly InboxRow[], nowMs: number): Promise<void> {
    const week = weekOf(nowMs);
    const listed: string[] = [];
    const written = this.#environment.write(() => {
      for (const row of rows) {
        this.#rows.put(key(row.userId, row.deviceId, row.position), Buffer.from(row.payload));
        const listing = `${week}/${row.userId}/${row.deviceId}`;
        if (this.#listed.has(listing)) continue;
        if (this.#listed.size >= REMEMBERED_LISTINGS) this.#listed.clear();
        this.#listed.add(listing);
        listed.push(listing);
        this.#weeks.put(Buffer.from(listing, 'latin1'), Buffer.alloc(0));
      }
    });
    // A listing that did not reach the disk is made again with the next row.
    written.catch(() => {
      for (const listing of listed) this.#listed.delete(listing);
    });
    return written;
  }

  async page(userId: string, deviceId: string, after: Position | undefined, limit: number): Promise<InboxRow[]> {
    const prefix = `${userId}/${deviceId}/`;
    // '~' sorts after every digit of a position.
    const start = after === undefined ? prefix : `${prefix}${after}~`;
    const end = `${prefix}~`;
    const rows: InboxRow[] = [];
    this.#rows.forEach({ start, end, limit }, (rowKey, payload) => {
      rows.push({ userId, deviceId, position: rowKey.slice(prefix.length), payload });
    });
    return rows;
  }

  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    return this.#environment.write(() => {
      for (const position of positions) this.#rows.remove(key(userId, deviceId, position));
    });
  }

  async clear(userId: string, deviceId: string): Promise<void> {
    for (;;) {
      const rows = await this.page(userId, deviceId, undefined, 1000);
      if (rows.length === 0) return;
      await this.remove(
        userId,
        deviceId,
        rows.map((row) => row.position),
      );
    }
  }

  async aged(beforeMs: number): Promise<AgedInbox[]> {
    const inboxes = new Map<string, AgedInbox>();
    for (const listing of this.#weeks.keys({ end: Buffer.from(weekOf(beforeMs), 'latin1') })) {
      const [, userId, deviceId] = listing.toString('latin1').split('/') as [string, string, string];
      inboxes.set(`${userId}/${deviceId}`, { userId, deviceId });
    }
    return [...inboxes.values()];
  }

  async forgetWeeks(beforeMs: number): Promise<void> {
    const listings = this.#weeks.keys({ end: Buffer.from(weekOf(beforeMs), 'latin1') });
    if (listings.length === 0) return;
    this.#listed.clear();
    await this.#environment.write(() => {
      for (const listing of listings) this.#weeks.remove(listing);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#environment.settled();
  }
}

function key(userId: string, deviceId: string, position: Position): string {
  return `${userId}/${deviceId}/${position}`;
}

/** Weeks since 1970 as fixed-width text. */
function weekOf(ms: number): string {
  return String(Math.floor(ms / WEEK_MS)).padStart(6, '0');
}
