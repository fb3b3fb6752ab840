import type { MonotonicClock, WallClock } from '@chatmesh/mesh';
import { LastSeen } from '../domain/last-seen.js';
import { SessionTable } from '../domain/session-table.js';
import type { EdgeReport, LiveSession, PresenceStore } from './presence-store.js';

export interface MemoryPresenceOptions {
  /** For when users were last seen. */
  readonly now: WallClock;
  /** For leases. */
  readonly monotonicMs: MonotonicClock;
  /** Whose last seen is kept. */
  readonly maxLastSeen?: number;
  readonly lastSeenTtlMs?: number;
}

interface Edge {
  /** What the table calls it; another one after each full report. */
  readonly number: number;
  readonly edgeId: string;
  /** Milliseconds since 1970. */
  reportedAtMs: number;
  /** By the monotonic clock. */
  expiresAtMs: number;
}

const DEFAULT_MAX_LAST_SEEN = 200_000;
const DEFAULT_LAST_SEEN_TTL_MS = 30 * 24 * 3_600_000;

/**
 * Presence in this process. No timer runs: what has expired is noticed by the next call, which looks at the edge that
 * expires first, and takes the sessions of an expired edge out in one pass.
 */
export class MemoryPresenceStore implements PresenceStore {
  readonly #now: WallClock;
  readonly #monotonicMs: MonotonicClock;
  readonly #sessions = new SessionTable();
  readonly #lastSeen: LastSeen;
  readonly #edges = new Map<string, Edge>();
  readonly #byNumber = new Map<number, Edge>();
  readonly #watchers = new Map<string, Set<() => void>>();
  #nextNumber = 1;
  #firstExpiryMs = Number.POSITIVE_INFINITY;

  constructor({ now, monotonicMs, maxLastSeen, lastSeenTtlMs }: MemoryPresenceOptions) {
    this.#now = now;
    this.#monotonicMs = monotonicMs;
    this.#lastSeen = new LastSeen({
      maxUsers: maxLastSeen ?? DEFAULT_MAX_LAST_SEEN,
      ttlMs: lastSeenTtlMs ?? DEFAULT_LAST_SEEN_TTL_MS,
    });
  }

  /** Memory is always there. */
  get ready(): boolean {
    return true;
  }

  /** Sessions at edges whose lease lives. */
  get size(): number {
    this.#expire();
    return this.#sessions.size;
  }

  async report({ edgeId, leaseMs, full, opened, closed }: EdgeReport): Promise<{ known: boolean }> {
    this.#expire();
    const nowMs = this.#now();
    const before = this.#edges.get(edgeId);
    if (!before && !full) return { known: false };
    const edge = before && !full ? before : this.#addEdge(edgeId);
    edge.reportedAtMs = nowMs;
    edge.expiresAtMs = this.#monotonicMs() + leaseMs;
    this.#firstExpiryMs = Math.min(this.#firstExpiryMs, edge.expiresAtMs);
    for (const session of opened) {
      this.#sessions.add({ ...session, edge: edge.number });
      this.#tell(session.userId);
    }
    // Only now, so that who is still there never was away.
    if (before && before !== edge) this.#drop(before, nowMs);
    for (const session of closed) {
      const removed = this.#sessions.remove({ ...session, edge: edge.number });
      if (!removed) continue;
      if (!this.#sessions.has(session.userId)) this.#lastSeen.note(session.userId, nowMs);
      this.#tell(session.userId);
    }
    return { known: true };
  }

  async sessionsOf(userIds: readonly string[]): Promise<LiveSession[]> {
    this.#expire();
    return userIds.flatMap((userId) =>
      this.#sessions.of(userId).flatMap(({ edge, ...session }) => {
        const at = this.#byNumber.get(edge);
        return at ? [{ ...session, edgeId: at.edgeId }] : [];
      }),
    );
  }

  async lastSeen(userIds: readonly string[]): Promise<Map<string, number>> {
    this.#expire();
    const nowMs = this.#now();
    const times = new Map<string, number>();
    for (const userId of userIds) {
      const atMs = this.#sessions.has(userId) ? undefined : this.#lastSeen.of(userId, nowMs);
      if (atMs !== undefined) times.set(userId, atMs);
    }
    return times;
  }

  async watch(userId: string, onChange: () => void): Promise<() => void> {
    const watchers = this.#watchers.get(userId) ?? new Set();
    // One function may watch twice.
    const watcher = () => onChange();
    this.#watchers.set(userId, watchers.add(watcher));
    return () => {
      if (watchers.delete(watcher) && watchers.size === 0) this.#watchers.delete(userId);
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #tell(userId: string): void {
    for (const watcher of this.#watchers.get(userId) ?? []) watcher();
  }

  #addEdge(edgeId: string): Edge {
    const edge: Edge = { number: this.#nextNumber++, edgeId, reportedAtMs: 0, expiresAtMs: 0 };
    this.#edges.set(edgeId, edge);
    this.#byNumber.set(edge.number, edge);
    return edge;
  }

  #expire(): void {
    const nowMs = this.#monotonicMs();
    if (nowMs < this.#firstExpiryMs) return;
    this.#firstExpiryMs = Number.POSITIVE_INFINITY;
    for (const edge of this.#edges.values()) {
      if (edge.expiresAtMs > nowMs) {
        this.#firstExpiryMs = Math.min(this.#firstExpiryMs, edge.expiresAtMs);
        continue;
      }
      this.#edges.delete(edge.edgeId);
      this.#drop(edge, edge.reportedAtMs);
    }
  }

  #drop(edge: Edge, lastSeenMs: number): void {
    this.#byNumber.delete(edge.number);
    for (const userId of this.#sessions.removeEdge(edge.number)) {
      this.#lastSeen.note(userId, lastSeenMs);
      this.#tell(userId);
    }
  }
}
