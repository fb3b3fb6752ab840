import { MeshError } from '@chatmesh/mesh';
import { type RedisClient, RedisScript } from '@chatmesh/mesh/redis';
import type { EdgeReport, EdgeSession, LiveSession, PresenceStore } from './presence-store.js';

export interface RedisPresenceOptions {
  readonly redis: RedisClient;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly lastSeenTtlMs?: number;
}

/** What an edge has had from one full report to the next; see lua/lease.lua. */
interface Lease {
  readonly floor: number;
  readonly reportedAtMs: number;
  readonly expiresAtMs: number;
  /** When what is below the floor ended. */
  readonly endedAtMs: number;
}

interface StoredSession extends LiveSession {
  readonly incarnation: number;
  readonly expiresAtMs: number;
}

interface StoredUser {
  readonly sessions: readonly StoredSession[];
  readonly seenAtMs: number;
}

const SESSIONS = new RedisScript(new URL('../../lua/sessions.lua', import.meta.url));
const LEASE = new RedisScript(new URL('../../lua/lease.lua', import.meta.url));
const DEFAULT_LAST_SEEN_TTL_MS = 30 * 24 * 3_600_000;
/**
 * Edges report everything again after this long, or up to half of it longer, so that they do not come together: what a node
 * of Redis has lost is back then, and what is stored of a session can expire although heartbeats do not touch it.
 */
const REFRESH_MS = 600_000;
const MAX_REFRESH_MS = 1.5 * REFRESH_MS;
/** Users of a report, and of a question, that are on their way at a time. */
const MAX_PIPELINED = 1_000;

/**
 * Presence in Redis: one hash per user and one per edge. Whether a session lives is judged when it is read, by the lease of its
 * edge, so that the end of an edge ends its sessions without a look at them. No command touches two keys: it runs on a
 * cluster, too.
 *
 * Where Redis is emptied, edges are unknown and report again in full.
 */
export class RedisPresenceStore implements PresenceStore {
  readonly #redis: RedisClient;
  readonly #now: () => number;
  readonly #lastSeenTtlMs: number;

  constructor({ redis, now, lastSeenTtlMs = DEFAULT_LAST_SEEN_TTL_MS }: RedisPresenceOptions) {
    this.#redis = redis;
    this.#now = now;
    this.#lastSeenTtlMs = lastSeenTtlMs;
  }

  get ready(): boolean {
    return this.#redis.ready;
  }

  async report(report: EdgeReport): Promise<{ known: boolean }> {
    const { edgeId, leaseMs, full } = report;
    const nowMs = this.#now();
    const incarnation = full
      ? await this.#lease(edgeId, 'begin', nowMs)
      : await this.#lease(edgeId, 'renew', nowMs, leaseMs);
    if (incarnation === undefined) return { known: false };
    await this.#take(report, incarnation, nowMs);
    if (!full) return { known: true };
    // Only now: those who are still there never were away, and a report that fails in between ends nothing.
    const refreshAtMs = Math.round(nowMs + REFRESH_MS + Math.random() * (MAX_REFRESH_MS - REFRESH_MS));
    const committed = await this.#lease(edgeId, 'commit', nowMs, leaseMs, incarnation, refreshAtMs);
    if (committed === undefined) throw new MeshError('unavailable', 'Redis was emptied during a full report');
    return { known: true };
  }

  async sessionsOf(userIds: readonly string[]): Promise<LiveSession[]> {
    const nowMs = this.#now();
    const users = await this.#users(userIds);
    const leases = await this.#leasesOf(users.values());
    const live: LiveSession[] = [];
    for (const { sessions } of users.values()) {
      for (const stored of sessions) {
        if (!lives(stored, leases.get(stored.edgeId), nowMs)) continue;
        const { userId, deviceId, session, edgeId } = stored;
        live.push({ userId, deviceId, session, edgeId });
      }
    }
    return live;
  }

  async lastSeen(userIds: readonly string[]): Promise<Map<string, number>> {
    const nowMs = this.#now();
    const users = await this.#users(userIds);
    const leases = await this.#leasesOf(users.values());
    const times = new Map<string, number>();
    for (const [userId, { sessions, seenAtMs }] of users) {
      if (sessions.some((stored) => lives(stored, leases.get(stored.edgeId), nowMs))) continue;
      const atMs = Math.max(seenAtMs, ...sessions.map((stored) => endOf(stored, leases.get(stored.edgeId))));
      if (atMs > 0 && nowMs - atMs < this.#lastSeenTtlMs) times.set(userId, atMs);
    }
    return times;
  }

  watch(userId: string, onChange: () => void): Promise<() => void> {
    return this.#redis.subscribe(this.#userKey(userId), onChange);
  }

  /** Closes the connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#redis[Symbol.asyncDispose]();
  }

  /** One step of lua/lease.lua. @returns the incarnation to write sessions with; undefined when a full report is wanted. */
  async #lease(edgeId: string, step: 'begin' | 'renew' | 'commit', nowMs: number, ...rest: number[]) {
    const answer = await this.#redis.run(LEASE, this.#leaseKey(edgeId), [step, nowMs, this.#lastSeenTtlMs, ...rest]);
    return answer === null ? undefined : Number(answer);
  }

  async #take({ edgeId, leaseMs, opened, closed }: EdgeReport, incarnation: number, nowMs: number): Promise<void> {
    const edge = packed(edgeId);
    const byUser = new Map<string, { opened: string[]; closed: string[] }>();
    const changesOf = (userId: string) => {
      const changes = byUser.get(userId) ?? { opened: [], closed: [] };
      byUser.set(userId, changes);
      return changes;
    };
    for (const session of opened) changesOf(session.userId).opened.push(fieldOf(edge, session));
    for (const session of closed) changesOf(session.userId).closed.push(fieldOf(edge, session));
    const expiresAtMs = nowMs + MAX_REFRESH_MS + leaseMs;
    await pipelined([...byUser], ([userId, changes]) => {
      const fields = [...changes.opened, ...changes.closed];
      const args = [incarnation, expiresAtMs, nowMs, this.#lastSeenTtlMs, changes.opened.length, ...fields];
      return this.#redis.run(SESSIONS, this.#userKey(userId), args);
    });
  }

  async #users(userIds: readonly string[]): Promise<Map<string, StoredUser>> {
    const ids = [...new Set(userIds)];
    const hashes = await pipelined(ids, (userId) => this.#redis.hash(this.#userKey(userId)));
    return new Map(ids.map((userId, i) => [userId, userOf(userId, hashes[i] ?? {})]));
  }

  /** The leases of the edges of these users' sessions, in one round trip. */
  async #leasesOf(users: Iterable<StoredUser>): Promise<Map<string, Lease>> {
    const edges = new Set<string>();
    for (const { sessions } of users) for (const { edgeId } of sessions) edges.add(edgeId);
    const ids = [...edges];
    const hashes = await pipelined(ids, (edgeId) => this.#redis.hash(this.#leaseKey(edgeId)));
    return new Map(ids.flatMap((edgeId, i) => (hashes[i]?.floor ? [[edgeId, leaseOf(hashes[i])]] : [])));
  }

  #userKey(userId: string): string {
    return `${this.#redis.prefix}presence:{${userId}}`;
  }

  #leaseKey(edgeId: string): string {
    return `${this.#redis.prefix}lease:{${edgeId}}`;
  }
}

/** A session of an incarnation that has begun and not committed lives by the lease before it: it is there. */
function lives(session: StoredSession, lease: Lease | undefined, nowMs: number): boolean {
  return (
    lease !== undefined &&
    lease.expiresAtMs > nowMs &&
    session.incarnation >= lease.floor &&
    session.expiresAtMs > nowMs
  );
}

/**
 * When a session that does not live ended; 0 when that is not known. Where several full reports lacked it this is the last of
 * them, at most {@link MAX_REFRESH_MS} and a lease too late.
 */
function endOf({ incarnation, expiresAtMs }: StoredSession, lease: Lease | undefined): number {
  if (!lease) return 0;
  return Math.min(expiresAtMs, incarnation < lease.floor ? lease.endedAtMs : lease.reportedAtMs);
}

function leaseOf(hash: Record<string, string>): Lease {
  return {
    floor: Number(hash.floor),
    reportedAtMs: Number(hash.reported),
    expiresAtMs: Number(hash.expires),
    endedAtMs: Number(hash.ended),
  };
}

function userOf(userId: string, hash: Record<string, string>): StoredUser {
  const sessions: StoredSession[] = [];
  for (const [field, value] of Object.entries(hash)) {
    const [edge, device, number] = field.split('/');
    if (edge === undefined || device === undefined || number === undefined) continue;
    const [incarnation, expiresAtMs] = value.split(' ').map(Number);
    sessions.push({
      userId,
      deviceId: unpacked(device),
      session: Number.parseInt(number, 36),
      edgeId: unpacked(edge),
      incarnation: incarnation ?? 0,
      expiresAtMs: expiresAtMs ?? 0,
    });
  }
  return { sessions, seenAtMs: Number(hash.seen ?? 0) };
}

/** At most 64 characters: Redis keeps a hash compact as long as all of it is that short. */
function fieldOf(edge: string, { deviceId, session }: EdgeSession): string {
  return `${edge}/${packed(deviceId)}/${session.toString(36)}`;
}

/** A UUID in 22 characters. */
function packed(uuid: string): string {
  return Buffer.from(uuid.replaceAll('-', ''), 'hex').toString('base64url');
}

function unpacked(text: string): string {
  const hex = Buffer.from(text, 'base64url').toString('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** Sends the commands of all items, a bounded number at a time. Stops at the first that fails. */
async function pipelined<T, R>(items: readonly T[], send: (item: T) => Promise<R>): Promise<R[]> {
  const answers: R[] = [];
  for (let at = 0; at < items.length; at += MAX_PIPELINED) {
    answers.push(...(await Promise.all(items.slice(at, at + MAX_PIPELINED).map(send))));
  }
  return answers;
}
