/** How often it turns. */
export const TURN_MS = 1_000;
/** So many turns are a round, in which each session is pinged once: 25 s, by the wire contract. */
const TURNS_PER_ROUND = 25;
/**
 * At least 60 s, by the wire contract: the first of the turns had begun when it was heard of. A round and a few turns before it, a
 * session is looked at each turn.
 */
const SILENT_TURNS = 61;
const ROUND_MS = TURNS_PER_ROUND * TURN_MS;

/** What has to be known of a session. */
export interface Timed {
  readonly number: number;
  /** When its token expires, milliseconds since 1970. */
  readonly expiresAtMs: number;
  /** The turn after which it was heard of last. */
  heardAtTurn: number;
  /** {@link ClientSink.receivedBytes} when it was looked at last. */
  seenBytes: number;
  /** Nothing is read from it, so that it cannot be heard of. */
  readonly paused: boolean;
  readonly sink: { ping(): void; readonly receivedBytes: number; readonly bufferedBytes: number };
}

/** What becomes of a session whose time is over. */
export interface SessionWheelEvents<S> {
  expired(session: S): void;
  silent(session: S): void;
}

/**
 * The open sessions, by number. A turn concerns a part of them only: those whose turn it is, and the few for which
 * something falls due before it is their turn again. So an idle session costs its ping and nothing else.
 *
 * Silence is counted in turns and not by a clock: while the process stands still it does not turn, and holds nothing against
 * those whom it could not hear.
 */
export class SessionWheel<S extends Timed> {
  readonly #events: SessionWheelEvents<S>;
  readonly #parts = Array.from({ length: TURNS_PER_ROUND }, () => new Map<number, S>());
  /** Sessions whose token expires within a round, or that have been silent for so long that they may be dropped within one. */
  readonly #due = new Set<S>();
  #turns = 0;
  #size = 0;

  constructor(events: SessionWheelEvents<S>) {
    this.#events = events;
  }

  get size(): number {
    return this.#size;
  }

  /** How often it has turned: what a session that is heard of has to remember. */
  get turns(): number {
    return this.#turns;
  }

  get(number: number): S | undefined {
    return this.#partOf(number).get(number);
  }

  add(session: S, nowMs: number): void {
    this.#partOf(session.number).set(session.number, session);
    this.#size++;
    session.heardAtTurn = this.#turns;
    session.seenBytes = session.sink.receivedBytes;
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
    if (this.#isDueWithinARound(session, nowMs)) this.#due.add(session);
  }

  /**
   * Pings the sessions whose turn it is, and ends those that have expired or gone silent. What has come from them has to have
   * been read before.
   *
   * @param nowMs milliseconds since 1970
   */
  turn(nowMs: number): void {
    this.#turns++;
    for (const session of this.#due) {
      this.#listen(session, 1);
      if (nowMs >= session.expiresAtMs) this.#events.expired(session);
      else if (this.#silentTurns(session) >= SILENT_TURNS) this.#events.silent(session);
      else if (!this.#isDueWithinARound(session, nowMs)) this.#due.delete(session);
    }
    for (const session of (this.#parts[this.#turns % TURNS_PER_ROUND] as Map<number, S>).values()) {
      this.#listen(session, TURNS_PER_ROUND);
      session.sink.ping();
      this.look(session, nowMs);
    }
  }

  /** Hears of a session of which no whole frame has come for some turns, the last look's, but bytes have, or are not read. */
  #listen(session: S, turns: number): void {
    const { receivedBytes, bufferedBytes } = session.sink;
    const unread = session.paused && bufferedBytes === 0;
    if (unread || (receivedBytes !== session.seenBytes && this.#silentTurns(session) > turns))
      session.heardAtTurn = this.#turns - 1;
    session.seenBytes = receivedBytes;
  }

  #silentTurns(session: S): number {
    return this.#turns - session.heardAtTurn;
  }

  #isDueWithinARound(session: S, nowMs: number): boolean {
    return nowMs + ROUND_MS >= session.expiresAtMs || this.#silentTurns(session) + TURNS_PER_ROUND >= SILENT_TURNS;
  }

  #partOf(number: number): Map<number, S> {
    return this.#parts[number % TURNS_PER_ROUND] as Map<number, S>;
  }
}
