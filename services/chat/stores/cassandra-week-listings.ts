import { type Cassandra, inParallel } from '@chatmesh/mesh/cassandra';
import type { AgedInbox } from './inbox-store.js';

const WEEK_MS = 7 * 24 * 3600 * 1000;
/** Partitions of a week's listing: at 100 million devices with something in their inbox one has some 40 MB. */
const BUCKETS = 128;
/** So many of the latest listings are remembered to save the writes. */
const REMEMBERED_LISTINGS = 100_000;

const LIST_WEEK = 'INSERT INTO inbox_unswept_weeks (part, week) VALUES (0, ?)';
const LIST_INBOX = 'INSERT INTO inbox_weeks (week, bucket, user_id, device_id) VALUES (?, ?, ?, ?)';
const LIST_WEEK_OF_DEVICE = 'INSERT INTO inbox_device_weeks (user_id, device_id, week) VALUES (?, ?, ?)';
const WEEKS = 'SELECT week FROM inbox_unswept_weeks WHERE part = 0 AND week < ?';
const INBOXES = 'SELECT user_id, device_id FROM inbox_weeks WHERE week = ? AND bucket = ?';
const WEEKS_OF_DEVICE = 'SELECT week FROM inbox_device_weeks WHERE user_id = ? AND device_id = ?';
const FORGET_WEEK = 'DELETE FROM inbox_unswept_weeks WHERE part = 0 AND week = ?';
const FORGET_INBOXES = 'DELETE FROM inbox_weeks WHERE week = ? AND bucket = ?';
const FORGET_WEEK_OF_DEVICE =
  'DELETE FROM inbox_device_weeks USING TIMESTAMP ? WHERE user_id = ? AND device_id = ? AND week = ?';

interface Inbox {
  readonly userId: string;
  readonly deviceId: string;
}

/** Weeks since 1970. */
export function weekOf(ms: number): number {
  return Math.floor(ms / WEEK_MS);
}

/** Which inbox has rows in which week: by device, for pages, and by week, for the sweep. Weeks are {@link weekOf}. */
export class WeekListings {
  readonly #cassandra: Cassandra;
  /** Known to be listed. */
  readonly #listed = new Set<string>();
  readonly #listedWeeks = new Set<number>();

  constructor(cassandra: Cassandra) {
    this.#cassandra = cassandra;
  }

  /** Lists inboxes under a week, durably. */
  async add(week: number, inboxes: readonly Inbox[]): Promise<void> {
    if (!this.#listedWeeks.has(week)) {
      await this.#cassandra.write({ cql: LIST_WEEK, params: [week] });
      this.#listedWeeks.add(week);
    }
    const missing = inboxes.filter((inbox) => !this.#listed.has(listing(inbox, week)));
    await inParallel(missing, async (inbox) => {
      const { userId, deviceId } = inbox;
      await Promise.all([
        this.#cassandra.write({ cql: LIST_WEEK_OF_DEVICE, params: [userId, deviceId, week] }),
        this.#cassandra.write({ cql: LIST_INBOX, params: [week, bucketOf(userId), userId, deviceId] }),
      ]);
      if (this.#listed.size >= REMEMBERED_LISTINGS) this.#listed.clear();
      this.#listed.add(listing(inbox, week));
    });
  }

  /** The weeks of a device, in order. */
  async of({ userId, deviceId }: Inbox): Promise<number[]> {
    const rows = await this.#cassandra.read<{ week: number }>(WEEKS_OF_DEVICE, [userId, deviceId]);
    return rows.map(({ week }) => week);
  }

  /**
   * Takes a week of a device that has no rows any more off the list, some time: where that fails, it is found empty again. What
   * is listed later than a week after that week's end, by whoever has such a clock, stays.
   */
  remove(inbox: Inbox, week: number): void {
    this.#listed.delete(listing(inbox, week));
    const atUs = BigInt((week + 2) * WEEK_MS * 1000);
    const params = [atUs, inbox.userId, inbox.deviceId, week];
    this.#cassandra.write({ cql: FORGET_WEEK_OF_DEVICE, params }).catch(() => {});
  }

  /** The inboxes listed under weeks before `week`, each once. */
  async aged(week: number): Promise<AgedInbox[]> {
    const inboxes = new Map<string, AgedInbox>();
    for (const earlier of await this.#weeksBefore(week)) {
      await inParallel(sequence(BUCKETS), async (bucket) => {
        const rows = await this.#cassandra.read<{ user_id: object; device_id: object }>(INBOXES, [earlier, bucket]);
        for (const row of rows) {
          const inbox = { userId: `${row.user_id}`, deviceId: `${row.device_id}` };
          inboxes.set(`${inbox.userId}/${inbox.deviceId}`, inbox);
        }
      });
    }
    return [...inboxes.values()];
  }

  /** Forgets what is listed under weeks before `week`. */
  async forget(week: number): Promise<void> {
    for (const earlier of await this.#weeksBefore(week)) {
      this.#listed.clear();
      this.#listedWeeks.clear();
      await inParallel(sequence(BUCKETS), (bucket) =>
        this.#cassandra.write({ cql: FORGET_INBOXES, params: [earlier, bucket] }),
      );
      await this.#cassandra.write({ cql: FORGET_WEEK, params: [earlier] });
    }
  }

  async #weeksBefore(week: number): Promise<number[]> {
    return (await this.#cassandra.read<{ week: number }>(WEEKS, [week])).map((row) => row.week);
  }
}

function listing({ userId, deviceId }: Inbox, week: number): string {
  return `${week}/${userId}/${deviceId}`;
}

/** FNV-1a. */
function bucketOf(userId: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < userId.length; i++) hash = Math.imul(hash ^ userId.charCodeAt(i), 0x01000193);
  return (hash >>> 0) % BUCKETS;
}

function sequence(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}
