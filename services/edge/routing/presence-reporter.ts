import { type Session as PresenceSession, SessionService } from '@chatmesh/gen/presence/v1/session';
import { type ClientOptions, createClient, type Logger, monotonicMs } from '@chatmesh/mesh';
import type { Session } from '../sessions/session.js';
import type { SessionObserver } from '../sessions/session-table.js';

const REPORT_MS = 50;
const HEARTBEAT_MS = 4_000;
/** After a failed report the next one waits this long. */
const RETRY_MS = 1_000;
const LEASE_MS = 15_000;
const MAX_PER_REPORT = 5_000;

type Entry = Pick<PresenceSession, 'userId' | 'deviceId' | 'session'>;

/** Tells presence which sessions this edge has: changes at once, and everything when presence has forgotten the edge. */
export class PresenceReporter implements SessionObserver {
  readonly #client;
  readonly #edgeId: string;
  readonly #all: () => Iterable<Session>;
  readonly #logger: Logger;
  #opened: Entry[] = [];
  #closed: Entry[] = [];
  #full = true;
  #reporting = false;
  #timer: NodeJS.Timeout | undefined;
  /** By the monotonic clock, as is the next. */
  #lastReportAtMs = Number.NEGATIVE_INFINITY;
  #notBeforeMs = 0;
  #stopped = false;

  constructor(options: ClientOptions & { edgeId: string; all: () => Iterable<Session>; logger: Logger }) {
    this.#client = createClient(SessionService, options);
    this.#edgeId = options.edgeId;
    this.#all = options.all;
    this.#logger = options.logger;
  }

  start(): void {
    this.#timer = setInterval(() => void this.#report(), REPORT_MS).unref();
  }

  opened(session: Session): void {
    this.#opened.push(entryOf(session));
  }

  closed(session: Session): void {
    this.#closed.push(entryOf(session));
  }

  /** Reports what is left, best effort. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#stopped = true;
    await this.#report();
    this.#client.close();
  }

  async #report(): Promise<void> {
    const changed = this.#opened.length > 0 || this.#closed.length > 0 || this.#full;
    const due = monotonicMs() - this.#lastReportAtMs >= HEARTBEAT_MS;
    if (this.#reporting || (!changed && !due) || monotonicMs() < this.#notBeforeMs) return;
    this.#reporting = true;
    this.#lastReportAtMs = monotonicMs();
    const full = this.#full;
    const opened = full ? [...this.#all()].map(entryOf) : this.#opened;
    const closed = full ? [] : this.#closed;
    this.#opened = [];
    this.#closed = [];
    this.#full = false;
    try {
      let unknown = false;
      for (let at = 0; at === 0 || at < Math.max(opened.length, closed.length); at += MAX_PER_REPORT) {
        const { unknownEdge } = await this.#client.report({
          edgeId: this.#edgeId,
          leaseMs: LEASE_MS,
          full: full && at === 0,
          opened: opened.slice(at, at + MAX_PER_REPORT),
          closed: closed.slice(at, at + MAX_PER_REPORT),
        });
        unknown ||= unknownEdge;
      }
      if (unknown && !full) this.#full = true;
    } catch (error) {
      // What was lost here is made good by a full report.
      this.#full = true;
      this.#notBeforeMs = monotonicMs() + RETRY_MS;
      if (!this.#stopped) this.#logger.debug({ err: error }, 'presence did not take a report');
    } finally {
      this.#reporting = false;
    }
  }
}

function entryOf(session: Session): Entry {
  return { userId: session.userId, deviceId: session.deviceId, session: session.number };
}
