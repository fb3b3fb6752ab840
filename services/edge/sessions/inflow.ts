import type { Session } from './session.js';

const MAX_UNANSWERED = 256;
/**
 * Messages that this edge has handed to routers and that have no answer yet. With more, a sender is not read while it has
 * more than its share: what waits in the kernel's buffers costs nothing. The others are read, for behind a message stand
 * confirmations, which are what makes room.
 */
const MAX_IN_FLIGHT = 2_048;
/** The share; so many messages a sender is expected to bring when it is read again. */
const BURST = 32;
/**
 * Ids that a device has confirmed and that no router has dealt with. Twice as many as a router takes while its stores are away
 * (SETTLING_WINDOW), so that only a client is held up that confirms more than it was sent.
 */
const MAX_CONFIRMING = 4_096;
/** Above this the client is not read until it has taken what it was sent; far above it, it is closed. By the wire contract. */
const HIGH_WATER_BYTES = 1024 * 1024;
const MAX_OWED_BYTES = 16 * 1024 * 1024;

/**
 * Which clients are read. One is not read while it has too much unanswered, unconfirmed or untaken, or while the edge as a
 * whole has too much in flight. Each of these ends with an event, at which {@link look} is called: nothing waits for a timer.
 */
export class Inflow {
  readonly #overloaded: (session: Session) => void;
  #inFlight = 0;
  #paused = 0;
  /** Sessions that are not read because too much is in flight, in the order in which they are read again. */
  #held: Session[] = [];

  /** @param overloaded ends a session whose client does not take what it is owed. */
  constructor(overloaded: (session: Session) => void) {
    this.#overloaded = overloaded;
  }

  /** Messages handed to routers that have no answer yet. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Sessions that are not read. */
  get paused(): number {
    return this.#paused;
  }

  /** A session's message is handed to a router. */
  submitted(session: Session): void {
    session.unanswered++;
    if (++this.#inFlight > MAX_IN_FLIGHT && session.unanswered > BURST && !session.held) {
      session.held = true;
      this.#held.push(session);
      this.#pause(session);
    }
    if (session.unanswered >= MAX_UNANSWERED) this.#pause(session);
  }

  /** It is answered, but the answer is not written yet. */
  answered(session: Session): void {
    this.#inFlight--;
    session.unanswered--;
  }

  /** The device has confirmed so many ids, with which a router has to deal. */
  confirmed(session: Session, ids: number): void {
    session.confirming += ids;
    if (session.confirming >= MAX_CONFIRMING) this.#pause(session);
  }

  /** The client was told something, whatever it is: one that does not read costs a bounded amount. */
  owed(session: Session): void {
    const { bufferedBytes } = session.sink;
    if (bufferedBytes > MAX_OWED_BYTES) this.#overloaded(session);
    else if (bufferedBytes > HIGH_WATER_BYTES) this.#pause(session);
  }

  /** Reads a client again, if nothing stands against it any more. */
  look(session: Session): void {
    if (!session.paused || session.held || session.closed) return;
    if (session.unanswered > MAX_UNANSWERED / 2 || session.sink.bufferedBytes > HIGH_WATER_BYTES) return;
    if (session.confirming > MAX_CONFIRMING / 2) return;
    session.paused = false;
    this.#paused--;
    session.sink.pause(false);
  }

  /** Reads as many held senders again as there is room for what they may bring. */
  release(): void {
    const room = Math.floor((MAX_IN_FLIGHT - this.#inFlight) / BURST);
    if (room <= 0 || this.#held.length === 0) return;
    for (const session of this.#held.splice(0, room)) {
      session.held = false;
      this.look(session);
    }
  }

  /** A session has ended. What it has in flight still counts. */
  ended(session: Session): void {
    if (session.paused) this.#paused--;
    session.paused = false;
  }

  #pause(session: Session): void {
    if (session.paused || session.closed) return;
    session.paused = true;
    this.#paused++;
    session.sink.pause(true);
  }
}
