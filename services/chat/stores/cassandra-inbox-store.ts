import { type Cassandra, inParallel, type Statement } from '@chatmesh/mesh/cassandra';
import { type Deletion, InboxView, type Note, ROW_STEP_US, type WeekView } from './cassandra-inbox-view.js';
import { WeekListings, weekOf } from './cassandra-week-listings.js';
import type { AgedInbox, InboxRow, InboxStore } from './inbox-store.js';
import type { Position } from './message-log.js';

const PARTITION = 'user_id = ? AND device_id = ? AND week = ?';
const APPEND =
  'INSERT INTO inbox (user_id, device_id, week, position, payload) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?';
const PAGE = `SELECT position, payload, writetime(payload) AS at_us FROM inbox
  WHERE ${PARTITION} AND position > ? LIMIT ?`;
const PEEK = `SELECT position, writetime(payload) AS at_us FROM inbox WHERE ${PARTITION} LIMIT 1`;
const FIND = `SELECT position, writetime(payload) AS at_us FROM inbox WHERE ${PARTITION} AND position IN ?`;
const REMOVE_ROW = `DELETE FROM inbox USING TIMESTAMP ? WHERE ${PARTITION} AND position = ?`;
const REMOVE_RANGE = `DELETE FROM inbox USING TIMESTAMP ? WHERE ${PARTITION} AND position >= ? AND position <= ?`;
const REMOVE_FIRST = `DELETE FROM inbox USING TIMESTAMP ? WHERE ${PARTITION} AND position <= ?`;

/** Of one batch: a node takes some MB at once, and answers others the sooner the less it is. */
const BATCH_STATEMENTS = 100;
const BATCH_BYTES = 256 * 1024;
const CLEARED_AT_ONCE = 1000;
/** Of all views together; a row takes some 80 bytes. */
const MAX_KNOWN_ROWS = 1_000_000;
/** A device that has more unconfirmed is not draining: knowing its rows is of no use. */
const MAX_ROWS_OF_VIEW = 4_096;

interface RowKey {
  readonly position: Position;
  readonly at_us: bigint;
}

interface Row extends RowKey {
  readonly payload: Buffer;
}

interface Inbox {
  readonly userId: string;
  readonly deviceId: string;
}

/**
 * Inboxes in partitions of a week each, with listings of the weeks: see docs/decisions.md.
 *
 * A page begins to look where the listing says, without a cursor anew each time: the device may have been another owner's in
 * between. After that the view of the device knows what this process adds and removes.
 */
export class CassandraInboxStore implements InboxStore {
  readonly #cassandra: Cassandra;
  readonly #listings: WeekListings;
  readonly #now: () => number;
  /** By user and device; those used last at the end. */
  readonly #views = new Map<string, InboxView>();
  #knownRows = 0;
  #lastUs = 0;

  constructor(cassandra: Cassandra, { now = Date.now }: { now?: () => number } = {}) {
    this.#cassandra = cassandra;
    this.#listings = new WeekListings(cassandra);
    this.#now = now;
  }

  async append(rows: readonly InboxRow[], nowMs: number): Promise<void> {
    const week = weekOf(nowMs);
    const atUs = this.#nextUs();
    const byDevice = grouped(rows, keyOf);
    const begun = [...byDevice].map(([key, rowsOfDevice]) => {
      const notes: Note[] = rowsOfDevice.map(({ position }) => ({ week, position, atUs }));
      const view = this.#views.get(key) ?? new InboxView();
      view.begin(notes);
      this.#keep(key, view);
      return { key, notes };
    });
    const batches = [...byDevice.values()].flatMap((rowsOfDevice) => batchesOf(rowsOfDevice, week, atUs));
    try {
      await Promise.all([
        inParallel(batches, (batch) => this.#cassandra.write(...batch)),
        this.#listings.add(
          week,
          [...byDevice.values()].map(([first]) => first as InboxRow),
        ),
      ]);
    } finally {
      for (const { key, notes } of begun) {
        const view = this.#views.get(key) as InboxView;
        view.end(notes);
        if (!view.busy && (!view.loaded || view.size > MAX_ROWS_OF_VIEW)) this.#forget(key);
      }
    }
  }

  async page(userId: string, deviceId: string, after: Position | undefined, limit: number): Promise<InboxRow[]> {
    const inbox = { userId, deviceId };
    const view = await this.#view(inbox, after === undefined);
    view.reads++;
    try {
      return await this.#read(inbox, view, after ?? '', limit);
    } finally {
      view.reads--;
      // One that was replaced meanwhile has missed what was appended since.
      if (this.#views.get(keyOf(inbox)) === view) this.#keep(keyOf(inbox), view);
    }
  }

  async remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    const inbox = { userId, deviceId };
    const view = this.#views.get(keyOf(inbox));
    await view?.loaded;
    if (view?.loaded) {
      const { deletions, unsure } = view.remove(positions);
      await this.#delete(inbox, [...deletions, ...(await this.#find(inbox, unsure))]);
    } else {
      const weeks = new Set([...(await this.#listings.of(inbox)), ...(view?.weeks.keys() ?? [])]);
      await this.#delete(inbox, await this.#find(inbox, new Map([...weeks].map((week) => [week, positions]))));
    }
  }

  async clear(userId: string, deviceId: string): Promise<void> {
    for (;;) {
      const rows = await this.page(userId, deviceId, undefined, CLEARED_AT_ONCE);
      if (rows.length === 0) return;
      await this.remove(
        userId,
        deviceId,
        rows.map((row) => row.position),
      );
    }
  }

  aged(beforeMs: number): Promise<AgedInbox[]> {
    return this.#listings.aged(weekOf(beforeMs));
  }

  forgetWeeks(beforeMs: number): Promise<void> {
    return this.#listings.forget(weekOf(beforeMs));
  }

  /** The connection is its maker's to close. */
  async [Symbol.asyncDispose](): Promise<void> {}

  /**
   * What removes these rows where they are. They are looked up first: their timestamps may be those of another router's clock,
   * and what is not there must not leave a tombstone.
   */
  async #find(inbox: Inbox, positions: ReadonlyMap<number, readonly Position[]>): Promise<Deletion[]> {
    const asked = [...positions].flatMap(([week, ofWeek]) => chunks(ofWeek).map((some) => ({ week, some })));
    const found = await inParallel(asked, async ({ week, some }) => {
      const rows = await this.#cassandra.read<RowKey>(FIND, [inbox.userId, inbox.deviceId, week, some]);
      return rows.map(noteOf).map(({ position, atUs }) => ({ week, from: position, through: position, atUs }));
    });
    return found.flat();
  }

  async #delete(inbox: Inbox, deletions: readonly Deletion[]): Promise<void> {
    const batches = [...grouped(deletions, ({ week }) => week).values()].flatMap((ofWeek) =>
      chunks(ofWeek.map((rows) => deletion(inbox, rows))),
    );
    await inParallel(batches, (batch) => this.#cassandra.write(...batch));
  }

  /** What is known of an inbox, from its listing if nothing is, or if it is to be known anew. */
  async #view(inbox: Inbox, anew: boolean): Promise<InboxView> {
    const key = keyOf(inbox);
    let view = this.#views.get(key);
    if (!view?.loaded || anew) {
      // From here on it sees what is appended, so that the listing may be older than the last append.
      view = new InboxView(view);
      this.#keep(key, view);
      view.loaded = this.#load(inbox, view);
    }
    try {
      await view.loaded;
    } catch (error) {
      view.loaded = undefined;
      throw error;
    }
    return view;
  }

  async #load(inbox: Inbox, view: InboxView): Promise<void> {
    for (const week of await this.#listings.of(inbox)) view.week(week);
    if (view.weeks.size < 2) return;
    const newest = Math.max(...view.weeks.keys());
    await inParallel([...view.weeks.values()], async (week) => {
      const partition = [inbox.userId, inbox.deviceId, week.week];
      const first = await this.#cassandra.read<RowKey>(PEEK, partition);
      week.read('', first.map(noteOf), first.length === 0);
      // Nobody appends to a week that ended a week ago.
      if (week.nextOf('') !== undefined || week.week === newest || week.week >= weekOf(this.#now()) - 1) return;
      view.weeks.delete(week.week);
      this.#listings.remove(inbox, week.week);
    });
  }

  /** Up to `limit` rows after `after`: week by week, as long as the next one may have rows that belong on the page. */
  async #read(inbox: Inbox, view: InboxView, after: Position, limit: number): Promise<InboxRow[]> {
    // An inbox may be called empty only after it was read: what this process remembers does not do.
    const newest = Math.max(...view.weeks.keys());
    const unread = new Map<WeekView, Position>();
    for (const week of view.weeks.values()) {
      const next = week.nextOf(after) ?? (week.week === newest ? after : undefined);
      if (next !== undefined) unread.set(week, next);
    }
    const found = new Map<Position, InboxRow>();
    let end: Position | undefined;
    for (;;) {
      const [week, next] = lowest(unread);
      if (!week || (end !== undefined && next > end)) break;
      unread.delete(week);
      const rows = await this.#cassandra.read<Row>(PAGE, [inbox.userId, inbox.deviceId, week.week, after, limit]);
      week.read(after, rows.map(noteOf), rows.length < limit);
      // A row that was appended again in a later week is in both.
      for (const { position, payload } of rows) found.set(position, { ...inbox, position, payload });
      if (found.size >= limit) end = [...found.keys()].sort()[limit - 1];
    }
    return [...found.values()].sort((a, b) => (a.position < b.position ? -1 : 1)).slice(0, limit);
  }

  /** Puts a view at the end of those that may be forgotten, in place of the one before, and forgets others if need be. */
  #keep(key: string, view: InboxView): void {
    if (this.#views.get(key) !== view) this.#forget(key);
    this.#knownRows += view.size - view.counted;
    view.counted = view.size;
    this.#views.delete(key);
    this.#views.set(key, view);
    if (this.#knownRows <= MAX_KNOWN_ROWS) return;
    for (const [oldest, { busy }] of this.#views) {
      if (!busy && oldest !== key) this.#forget(oldest);
      if (this.#knownRows <= MAX_KNOWN_ROWS) break;
    }
  }

  #forget(key: string): void {
    const view = this.#views.get(key);
    if (!view) return;
    this.#knownRows -= view.counted;
    view.counted = 0;
    this.#views.delete(key);
  }

  /** A timestamp for the table, microseconds since 1970: later than all before it. */
  #nextUs(): number {
    this.#lastUs = Math.max(this.#now() * 1000, this.#lastUs + ROW_STEP_US);
    return this.#lastUs;
  }
}

function noteOf({ position, at_us }: RowKey): { position: Position; atUs: number } {
  return { position, atUs: Number(at_us) };
}

function keyOf({ userId, deviceId }: Inbox): string {
  return `${userId}/${deviceId}`;
}

function grouped<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group) group.push(item);
    else groups.set(key(item), [item]);
  }
  return groups;
}

function lowest<T>(positions: ReadonlyMap<T, Position>): [T | undefined, Position] {
  let first: [T | undefined, Position] = [undefined, ''];
  for (const entry of positions) if (first[0] === undefined || entry[1] < first[1]) first = entry;
  return first;
}

/** The rows of one device as batches of one partition. */
function batchesOf(rows: readonly InboxRow[], week: number, atUs: number): Statement[][] {
  const batches: Statement[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const { userId, deviceId, position, payload } of rows) {
    bytes += payload.length;
    const open = batches.at(-1);
    const blob = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
    const statement = { cql: APPEND, params: [userId, deviceId, week, position, blob, BigInt(atUs)] };
    if (open && bytes <= BATCH_BYTES && open.length < BATCH_STATEMENTS) open.push(statement);
    else {
      batches.push([statement]);
      bytes = payload.length;
    }
  }
  return batches;
}

function chunks<T>(items: readonly T[]): T[][] {
  const count = Math.ceil(items.length / BATCH_STATEMENTS);
  return Array.from({ length: count }, (_, i) => items.slice(i * BATCH_STATEMENTS, (i + 1) * BATCH_STATEMENTS));
}

function deletion({ userId, deviceId }: Inbox, { week, from, through, atUs }: Deletion): Statement {
  const partition = [BigInt(atUs), userId, deviceId, week];
  if (from === undefined) return { cql: REMOVE_FIRST, params: [...partition, through] };
  if (from === through) return { cql: REMOVE_ROW, params: [...partition, through] };
  return { cql: REMOVE_RANGE, params: [...partition, from, through] };
}
