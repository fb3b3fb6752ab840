import { DamagedRow, type LmdbEnvironment, newRow, rowOfBytes, type Table } from '@chatmesh/mesh/lmdb';
import type { AgedInbox, InboxRow, InboxStore } from './inbox-store.js';
import type { Position } from './message-log.js';

const WEEK_MS = 7 * 24 * 3600 * 1000;
/** Weeks are listed once per device; so many of the latest listings are remembered to save the write. */
const REMEMBERED_LISTINGS = 50_000;

/** Rows in a table ordered by `user/device/position`, and a listing of `week/user/device` for the sweep. */
export class LmdbInboxStore implements InboxStore {
  readonly #environment: LmdbEnvironment;
  readonly #rows: Table<string>;
  readonly #weeks: Table<string>;
  readonly #listed = new Set<string>();
  readonly #damaged: ((row: InboxRow) => Promise<void>) | undefined;
  /** Keys of damaged rows that are being dealt with. */
  readonly #leaving = new Set<string>();

  /**
   * @param damaged is called with a row that is damaged, its `payload` what stands in its place; the row is removed when the promise
   * resolves. No page has it.
   */
  constructor(environment: LmdbEnvironment, damaged?: (row: InboxRow) => Promise<void>) {
    this.#environment = environment;
    this.#rows = environment.textTable('inbox.rows');
    this.#weeks = environment.textTable('inbox.weeks');
    this.#damaged = damaged;
  }

  append(rows: readonly InboxRow[], nowMs: number): Promise<void> {
    const week = weekOf(nowMs);
    const listed: string[] = [];
    const written = this.#environment.write(() => {
      for (const row of rows) {
        this.#rows.put(key(row.userId, row.deviceId, row.position), rowOfBytes(row.payload));
        const listing = `${week}/${row.userId}/${row.deviceId}`;
        if (this.#listed.has(listing)) continue;
        if (this.#listed.size >= REMEMBERED_LISTINGS) this.#listed.clear();
        this.#listed.add(listing);
        listed.push(listing);
        this.#weeks.put(listing, newRow(0));
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
    const end = `${prefix}~`;
    const rows: InboxRow[] = [];
    let start = after === undefined ? prefix : `${prefix}${after}~`;
    // Another time where some were damaged: a page with too few rows is the end of the inbox.
    for (let lost = true; lost && rows.length < limit; ) {
      lost = false;
      this.#rows.forEach({ start, end, limit: limit - rows.length }, (rowKey, value) => {
        const position = rowKey.slice(prefix.length);
        start = `${rowKey}~`;
        if (value instanceof DamagedRow) {
          lost = true;
          this.#lose({ userId, deviceId, position, payload: value.bytes });
        } else rows.push({ userId, deviceId, position, payload: value });
      });
    }
    return rows;
  }

  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    return this.#environment.write(() => {
      for (const position of positions) this.#rows.remove(key(userId, deviceId, position));
    });
  }

  async clear(userId: string, deviceId: string): Promise<void> {
    const prefix = `${userId}/${deviceId}/`;
    for (;;) {
      const keys = this.#rows.keys({ start: prefix, end: `${prefix}~`, limit: 1000 });
      if (keys.length === 0) return;
      await this.#environment.write(() => {
        for (const rowKey of keys) this.#rows.remove(rowKey);
      });
    }
  }

  async aged(beforeMs: number): Promise<AgedInbox[]> {
    const inboxes = new Map<string, AgedInbox>();
    for (const listing of this.#weeks.keys({ end: weekOf(beforeMs) })) {
      const [, userId = '', deviceId = ''] = listing.split('/');
      inboxes.set(`${userId}/${deviceId}`, { userId, deviceId });
    }
    return [...inboxes.values()];
  }

  async forgetWeeks(beforeMs: number): Promise<void> {
    const listings = this.#weeks.keys({ end: weekOf(beforeMs) });
    if (listings.length === 0) return;
    this.#listed.clear();
    await this.#environment.write(() => {
      for (const listing of listings) this.#weeks.remove(listing);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#environment.settled();
  }

  /** Has a damaged row dealt with, once at a time, and removes it. */
  #lose(row: InboxRow): void {
    const rowKey = key(row.userId, row.deviceId, row.position);
    if (!this.#damaged || this.#leaving.has(rowKey)) return;
    this.#leaving.add(rowKey);
    const gone = this.#damaged(row).then(() =>
      this.#environment.write(() => {
        // The log may have brought it once more meanwhile.
        if (this.#rows.get(rowKey) instanceof DamagedRow) this.#rows.remove(rowKey);
      }),
    );
    // What could not be done is tried again by whoever reads the row next.
    const left = () => this.#leaving.delete(rowKey);
    gone.then(left, left);
  }
}

function key(userId: string, deviceId: string, position: Position): string {
  return `${userId}/${deviceId}/${position}`;
}

/** Weeks since 1970 as fixed-width text. */
function weekOf(ms: number): string {
  return String(Math.floor(ms / WEEK_MS)).padStart(6, '0');
}
