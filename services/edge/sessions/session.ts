import type { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { type MeshError, monotonicMs } from '@chatmesh/mesh';
import type { SigningKey } from '../auth/key-set.js';
import type { PushedEvent } from '../domain/pushed-event.js';
import type { RouterStream, SubmitAnswer } from '../routing/router-stream.js';

/** What a session says to its client, in the client's own encoding. Calls of one turn of the event loop go out together. */
export interface ClientSink {
  accepted(clientMessageId: string, serverMessageId: string, acceptedAtMs: number, deduplicated: boolean): void;
  /** Passes on a message or a receipt, which stays what it is for the length of the call. */
  event(event: PushedEvent): void;
  error(error: MeshError, clientMessageId: string): void;
  caughtUp(): void;
  goingAway(reconnectAfterMs: number): void;
  /** Asks the client for a sign of life. */
  ping(): void;
  /** Ends the connection with a close code of the wire contract. */
  close(code: number, reason: string): void;
  /** Stops or goes on taking frames from the client. */
  pause(paused: boolean): void;
  /** Bytes that the client has not taken yet. */
  readonly bufferedBytes: number;
  /**
   * Changes with each byte that comes from the client, also of a frame that is not whole, and, while the kernel takes no more for
   * it, with each that it takes. Where it never changes, only {@link SessionTable.heard} tells signs of life.
   */
  readonly receivedBytes: number;
}

/** A confirmation that no router has taken yet. */
export interface KeptConfirmation {
  readonly status: MessageStatus;
  readonly ids: string[];
}

/** A submit that waits for another router. */
export interface Detour {
  /** Its place among those of its session. */
  readonly number: number;
  readonly submit: (router: RouterStream) => void;
  readonly answer: SubmitAnswer;
}

/** Who is connected, as the token says. */
export interface Identity {
  readonly userId: string;
  readonly deviceId: string;
  /** When the token expires, milliseconds since 1970. */
  readonly expiresAtMs: number;
  /** The key that signed the token; undefined where that was a shared secret. */
  readonly signedBy?: SigningKey;
}

/**
 * One connection of one device, whatever the protocol.
 *
 * `open` to `closed`, once. Its owner is the router that attached it last; without one, confirmations are kept and
 * events cannot arrive.
 */
export class Session {
  readonly number: number;
  readonly userId: string;
  readonly deviceId: string;
  readonly sink: ClientSink;
  expiresAtMs: number;
  signedBy: SigningKey | undefined;
  owner: RouterStream | undefined;
  /** When it was last announced to a router, by the monotonic clock. */
  openedAtMs = 0;
  /** To which router; undefined where none could be reached. */
  announcedTo: RouterStream | undefined;
  /** Its place among the sessions of its device, as the owner that attached it last says; 0 before the first. */
  order = 0;
  /** When it began, by the monotonic clock. */
  readonly beganAtMs = monotonicMs();
  caughtUp = false;
  closed = false;
  /** As {@link SessionWheel} needs them. */
  heardAtTurn = 0;
  seenBytes = 0;
  /** Submits without an answer. */
  unanswered = 0;
  /** The router that took the last submit. */
  via: RouterStream | undefined;
  /** How many submits there were, and the last one that is accepted. */
  sent = 0;
  lastAccepted = 0;
  /** Submits that go through another router when the one that refused some of them has answered all; undefined when there are none. */
  detour: Detour[] | undefined;
  /** Ids that its device has confirmed and that no router has dealt with. */
  confirming = 0;
  paused = false;
  /** Not read because this edge has too much in flight. */
  held = false;
  /** Bad frames in a row, and how many such rows have ended. */
  refused = 0;
  rows = 0;
  /**
   * Confirmations in a row of what was not sent to the user. Apart from the others, because a router tells it later, when
   * what came next has been taken already. The row ends with a message from the client, the answer to one, or an event for it.
   */
  unfounded = 0;
  /** A token is being checked. */
  renewing = false;
  /** Confirmations that wait for an owner; undefined when there are none. */
  kept: KeptConfirmation[] | undefined;

  constructor(number: number, identity: Identity, sink: ClientSink) {
    this.number = number;
    this.userId = identity.userId;
    this.deviceId = identity.deviceId;
    this.expiresAtMs = identity.expiresAtMs;
    this.signedBy = identity.signedBy;
    this.sink = sink;
  }
}
