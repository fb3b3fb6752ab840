import type { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { MeshError } from '@chatmesh/mesh';
import type { PushedEvent } from '../domain/pushed-event.js';
import type { RouterStream } from '../routing/router-stream.js';

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
}

/** A confirmation that no router has taken yet. */
export interface KeptConfirmation {
  readonly status: MessageStatus;
  readonly ids: string[];
}

/** Who is connected, as the token says. */
export interface Identity {
  readonly userId: string;
  readonly deviceId: string;
  /** When the token expires, milliseconds since 1970. */
  readonly expiresAtMs: number;
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
  owner: RouterStream | undefined;
  /** When it was last announced to a router. */
  openedAtMs = 0;
  announced = false;
  caughtUp = false;
  closed = false;
  lastHeardAtMs: number;
  /** Submits without an answer. */
  unanswered = 0;
  /** The router that took the last submit. */
  via: RouterStream | undefined;
  /** Ids that its device has confirmed and that no router has dealt with. */
  confirming = 0;
  paused = false;
  /** Not read because this edge has too much in flight. */
  held = false;
  /** Frames refused in a row. */
  refused = 0;
  /** Confirmations that wait for an owner; undefined when there are none. */
  kept: KeptConfirmation[] | undefined;

  constructor(number: number, identity: Identity, sink: ClientSink, nowMs: number) {
    this.number = number;
    this.userId = identity.userId;
    this.deviceId = identity.deviceId;
    this.expiresAtMs = identity.expiresAtMs;
    this.sink = sink;
    this.lastHeardAtMs = nowMs;
  }
}
