/** How often it turns. */
export const TURN_MS = 1_000;
/** So many turns are a round, in which each session is pinged once: 25 s, by the wire contract. */
const TURNS_PER_ROUND = 25;
/** By the wire contract. A round and a few turns before it, a session is looked at each turn. */
const SILENT_MS = 60_000;
const ROUND_MS = TURNS_PER_ROUND * TURN_MS;

/** What has to be known of a session. */
export interface Timed {
  readonly number: number;
  /** When its token expires. */
  readonly expiresAtMs: number;
  readonly lastHeardAtMs: number;
  readonly sink: { ping(): void };
}

/** What becomes of a session whose time is over. */
export interface SessionWheelEvents<S> {
  expired(session: S): void;
  silent(session: S): void;
}

/**
 * The open sessions, by number. A turn concerns a part of them only: those whose turn it is, and the few for which
 * something falls due before it is their turn again. So an idle session costs its ping and nothing else.
 */
export class SessionWheel<S extends Timed> {
  readonly #events: SessionWheelEvents<S>;
  readonly #parts = Array.from({ length: TURNS_PER_ROUND }, () => new Map<number, S>());
  /** Sessions whose token expires within a round, or that have been silent for so long that they may be dropped within one. */
  readonly #due = new Set<S>();
  #turn = 0;
  #size = 0;

  constructor(events: SessionWheelEvents<S>) {
    this.#events = events;
  }

  get size(): number {
    return this.#size;
  }

  get(number: number): S | undefined {
    return this.#partOf(number).get(number);
  }

  add(session: S, nowMs: number): void {
    this.#partOf(session.number).set(session.number, session);
    this.#size++;
    this.look(session, nowMs);
  }

  delete(session: S): void {
    if (this.#partOf(session.number).delete(session.number)) this.#size--;
    this.#due.delete(session);
  }

  *[Symbol.iterator](): IterableIterator<S> {
    for (const part of this.#parts) yield* part.values();
  }

  /** Looks when a session is due; to be called as well when its token is another one. */
  look(session: S, nowMs: number): void {
    if (isDue(session, nowMs + ROUND_MS)) this.#due.add(session);
  }

  /** Pings the sessions whose turn it is, and ends those that have expired or gone silent. */
  turn(nowMs: number): void {
    this.#turn = (this.#turn + 1) % TURNS_PER_ROUND;
    for (const session of this.#due) {
      if (nowMs >= session.expiresAtMs) this.#events.expired(session);
      else if (nowMs - session.lastHeardAtMs >= SILENT_MS) this.#events.silent(session);
      else if (!isDue(session, nowMs + ROUND_MS)) this.#due.delete(session);
    }
    for (const session of (this.#parts[this.#turn] as Map<number, S>).values()) {
      session.sink.ping();
      this.look(session, nowMs);
    }
  }

  #partOf(number: number): Map<number, S> {
    return this.#parts[number % TURNS_PER_ROUND] as Map<number, S>;
  }
}

/** Whether a session of which nothing more is heard is over at a time. */
function isDue(session: Timed, atMs: number): boolean {
  return atMs >= session.expiresAtMs || atMs - session.lastHeardAtMs >= SILENT_MS;
}
