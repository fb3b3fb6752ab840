import { randomUUID } from 'node:crypto';
import { type Logger, toMeshError } from '@chatmesh/mesh';
import { type RedisClient, RedisScript } from '@chatmesh/mesh/redis';
import { UNCLAIMED_DEVICE } from '../domain/ids.js';
import type { AgedInbox, InboxRow, InboxStore } from './inbox-store.js';
import { Lanes } from './lanes.js';
import type { Position } from './message-log.js';

export interface CachedInboxOptions {
  readonly redis: RedisClient;
  /** The newest rows of a device that are kept. */
  readonly maxRows: number;
  /**
   * The tenure in which this router owns a user; undefined where it does not. A user who was another router's in between
   * has another tenure than before, as {@link LogRecord.tenure} says.
   */
  readonly tenureOf: (userId: string) => number | undefined;
  readonly logger: Logger;
}

const APPEND = new RedisScript(new URL('../../lua/inbox-append.lua', import.meta.url));
const PAGE = new RedisScript(new URL('../../lua/inbox-page.lua', import.meta.url));
const FILL = new RedisScript(new URL('../../lua/inbox-fill.lua', import.meta.url));
const REMOVE = new RedisScript(new URL('../../lua/inbox-remove.lua', import.meta.url));
const TTL_MS = 24 * 3_600_000;
/** A larger row is not kept, nor what is older than it: 500 rows of a device are at most 8 MiB. */
const MAX_ROW_BYTES = 16 * 1024;

/**
 * The newest rows of each inbox in Redis, before the store that holds all of them and is the truth.
 *
 * A page comes from Redis only when it is the store's page. What is cached of a device bears a token that names this process, the
 * tenure of the user, the connection to Redis and a count of failures here; it is believed while the token is the
 * present one. So it is dead as soon as a write to Redis failed or may have been lost, another router had the user, or
 * this process began anew; and with a token of an earlier time a write that Redis carries out late does no harm.
 * Within that time the writes to a device follow one another, in the store and then in Redis. A page with no rows is always
 * asked of the store.
 *
 * A router that has lost a user and does not know yet may write to the store when Redis cannot be told. What it appends then are
 * events that the log hands to the present owner as well, and what it removes was confirmed, which the status record says.
 */
export class CachedInboxStore implements InboxStore {
  readonly #inner: InboxStore;
  readonly #redis: RedisClient;
  readonly #maxRows: number;
  readonly #tenureOf: (userId: string) => number | undefined;
  readonly #logger: Logger;
  readonly #run = randomUUID();
  readonly #lanes = new Lanes();
  #failures = 0;
  #hits = 0;

  constructor(inner: InboxStore, { redis, maxRows, tenureOf, logger }: CachedInboxOptions) {
    this.#inner = inner;
    this.#redis = redis;
    this.#maxRows = maxRows;
    this.#tenureOf = tenureOf;
    this.#logger = logger;
  }

  /** How many pages came from Redis. */
  get hits(): number {
    return this.#hits;
  }

  append(rows: readonly InboxRow[], nowMs: number): Promise<void> {
    const byKey = new Map<string, InboxRow[]>();
    for (const row of rows) {
      const key = this.#key(row.userId, row.deviceId);
      const ofDevice = byKey.get(key);
      if (ofDevice) ofDevice.push(row);
      else byKey.set(key, [row]);
    }
    const keys = [...byKey.keys()];
    return this.#write(
      keys,
      () => this.#inner.append(rows, nowMs),
      () => Promise.all([...byKey].map(([key, ofDevice]) => this.#cacheAppended(key, ofDevice))),
    );
  }

  async page(userId: string, deviceId: string, after: Position | undefined, limit: number): Promise<InboxRow[]> {
    const key = this.#key(userId, deviceId);
    // What waits for a user's first device is asked for once.
    const token = deviceId === UNCLAIMED_DEVICE ? undefined : this.#token(userId, key);
    if (token === undefined || limit < 1) return this.#inner.page(userId, deviceId, after, limit);
    const quiet = this.#lanes.watch(key);
    try {
      const cached = await this.#cachedPage(key, { token, userId, deviceId, after, limit });
      if (cached && cached.length > 0) {
        this.#hits++;
        return cached;
      }
      const rows = await this.#inner.page(userId, deviceId, after, limit);
      if (rows.length >= limit || !quiet.undisturbed || token !== this.#token(userId, key)) return rows;
      if (!cached) this.#fill(key, token, after, rows);
      else if (rows.length > 0) {
        this.#logger.error({ rows: rows.length }, 'the cache of an inbox lacked rows; nothing cached is believed now');
        this.#failures++;
      }
      return rows;
    } finally {
      quiet.end();
    }
  }

  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    const key = this.#key(userId, deviceId);
    return this.#write(
      [key],
      () => this.#inner.remove(userId, deviceId, positions),
      () => this.#redis.run(REMOVE, key, [this.#token(userId, key) ?? '', TTL_MS, ...positions]),
    );
  }

  clear(userId: string, deviceId: string): Promise<void> {
    const key = this.#key(userId, deviceId);
    return this.#write(
      [key],
      () => this.#inner.clear(userId, deviceId),
      () => this.#redis.remove(key),
    );
  }

  aged(beforeMs: number): Promise<AgedInbox[]> {
    return this.#inner.aged(beforeMs);
  }

  forgetWeeks(beforeMs: number): Promise<void> {
    return this.#inner.forgetWeeks(beforeMs);
  }

  /** Closes the store within; the connection to Redis is its maker's to close. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lanes.settled();
    await this.#inner[Symbol.asyncDispose]();
  }

  /** Writes to the store and then to Redis, after what is being written to these devices. */
  #write(keys: readonly string[], store: () => Promise<void>, cache: () => Promise<unknown>): Promise<void> {
    return this.#lanes.enter(keys, async () => {
      try {
        await store();
      } catch (error) {
        // It may have been written all the same.
        await this.#told(() => Promise.all(keys.map((key) => this.#redis.remove(key))));
        throw error;
      }
      await this.#told(cache);
    });
  }

  /** Writes to Redis. What it did not take makes everything cached here unbelievable, and is no error. */
  async #told(write: () => Promise<unknown>): Promise<void> {
    // Without a connection all that was cached over the one before is not believed any more.
    if (!this.#redis.ready) return;
    try {
      await write();
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error: unknown): void {
    this.#failures++;
    const { kind, message, cause } = toMeshError(error);
    if (kind !== 'unavailable') this.#logger.error({ reason: cause ?? message }, 'Redis refused to cache an inbox');
  }

  #cacheAppended(key: string, rows: readonly InboxRow[]): Promise<unknown> {
    const { userId } = rows[0] as InboxRow;
    const kept = rows.filter((row) => row.payload.length <= MAX_ROW_BYTES);
    const large = rows.filter((row) => row.payload.length > MAX_ROW_BYTES).map((row) => row.position);
    const floor = large.sort().at(-1) ?? '';
    const token = this.#token(userId, key) ?? '';
    return this.#redis.run(APPEND, key, [token, this.#maxRows, TTL_MS, floor, ...argumentsOf(kept)]);
  }

  /** Undefined when the cache does not know. */
  async #cachedPage(
    key: string,
    page: { token: string; userId: string; deviceId: string; after: Position | undefined; limit: number },
  ): Promise<InboxRow[] | undefined> {
    const { token, userId, deviceId, after, limit } = page;
    try {
      const members = await this.#redis.runBuffer(PAGE, key, [token, after ?? '', limit]);
      if (!Array.isArray(members) || token !== this.#token(userId, key)) return undefined;
      return members.map((member: Buffer) => {
        const end = member.indexOf(0);
        return { userId, deviceId, position: member.toString('latin1', 0, end), payload: member.subarray(end + 1) };
      });
    } catch (error) {
      this.#failed(error);
      return undefined;
    }
  }

  /** Caches what the store holds above `after`. Nobody waits for it but the next write to the device. */
  #fill(key: string, token: string, after: Position | undefined, rows: readonly InboxRow[]): void {
    let first = Math.max(0, rows.length - this.#maxRows);
    for (let i = first; i < rows.length; i++) if ((rows[i] as InboxRow).payload.length > MAX_ROW_BYTES) first = i + 1;
    const floor = rows[first - 1]?.position ?? after ?? '';
    const args = [token, TTL_MS, floor, ...argumentsOf(rows.slice(first))];
    void this.#lanes.enter([key], () => this.#told(() => this.#redis.run(FILL, key, args)));
  }

  /** What a cached inbox must bear to be believed; undefined when none can be. */
  #token(userId: string, key: string): string | undefined {
    const tenure = this.#tenureOf(userId);
    if (tenure === undefined || !this.#redis.ready) return undefined;
    return `${this.#run}/${this.#failures}/${tenure}/${this.#redis.lineage(key)}`;
  }

  /** The user's hash tag: the keys of one user share a slot. */
  #key(userId: string, deviceId: string): string {
    return `${this.#redis.prefix}inbox:{${userId}}:${deviceId}`;
  }
}

function argumentsOf(rows: readonly InboxRow[]): (string | Buffer)[] {
  return rows.flatMap(({ position, payload }) => [
    position,
    Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength),
  ]);
}
