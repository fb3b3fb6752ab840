import type { Position } from './message-log.js';

/** What is known of one accepted message, for as long as an undelivered message is kept and a little longer. Never its content. */
export interface StatusRecord {
  readonly serverMessageId: string;
  readonly clientMessageId: string;
  readonly senderId: string;
  readonly recipientId: string;
  readonly acceptedAtMs: number;
  /** Where the message stands in the log: a second copy of it stands elsewhere. */
  readonly position: Position;
  /** A keyed hash of recipient and content, hexadecimal. */
  readonly fingerprint: string;
  /** When the edge had it, by the edge's clock; 0 where that is not known. */
  readonly receivedAtMs: number;
  /** Whether its copies for the sender's other devices are certainly on the log, too: acceptance knows, an owner that writes the record does not. */
  readonly complete: boolean;
  /** 0 until the first device confirmed. */
  readonly deliveredAtMs: number;
  /** 0 until it was read. */
  readonly readAtMs: number;
  /** 0 unless it was given up. */
  readonly failedAtMs: number;
  /** Why it was given up. */
  readonly code: string;
  /** Devices that confirmed: it is not sent to them again. */
  readonly devices: readonly string[];
  /** When the owner of the recipient took it from the log or the inbox, for a device that confirmed it; 0 until then. */
  readonly takenAtMs: number;
  /** When it was transmitted to such a device. */
  readonly transmittedAtMs: number;
}

/** What has become known of a message since it was accepted. Times are 0 where they say nothing. */
export interface StatusUpdate {
  readonly serverMessageId: string;
  /** Makes the record that acceptance writes: where there is none yet, it is written too. */
  readonly base: (() => StatusRecord) | undefined;
  /** A device that confirmed. */
  readonly deviceId: string | undefined;
  readonly deliveredAtMs: number;
  readonly readAtMs: number;
  readonly failedAtMs: number;
  readonly code: string;
  /** With `deliveredAtMs` only. */
  readonly takenAtMs: number;
  /** With `deliveredAtMs` only. */
  readonly transmittedAtMs: number;
}

/** What an update says besides its id where it says nothing. */
export const NOTHING_NEW = {
  base: undefined,
  deviceId: undefined,
  deliveredAtMs: 0,
  readAtMs: 0,
  failedAtMs: 0,
  code: '',
  takenAtMs: 0,
  transmittedAtMs: 0,
} as const satisfies Omit<StatusUpdate, 'serverMessageId'>;

/** Of two times of which 0 says nothing. */
export function earliest(a: number, b: number): number {
  return a === 0 || (b !== 0 && b < a) ? b : a;
}

/** In place of a record that exists and cannot be read. */
export const DAMAGED = Symbol('a damaged status record');

/** What a store has of a message; undefined when the message is unknown. */
export type StatusAnswer = StatusRecord | typeof DAMAGED | undefined;

/** One record for each accepted message. All writes are durable when their promise resolves. */
export interface StatusStore extends AsyncDisposable {
  /**
   * Records acceptances. Of several of one message the one with the lowest position counts: the owner of the recipient meets that
   * one first. What has happened to the message since stays. One whose record was found to be damaged gets this one.
   *
   * @throws MeshError `unavailable`
   */
  accept(records: readonly StatusRecord[]): Promise<void>;
  /** The records of messages, in the order asked. Sees every write whose promise resolved. */
  get(serverMessageIds: readonly string[]): Promise<StatusAnswer[]>;
  /** Merges updates: the earliest time of each kind stays, with its code. Updates without a `base` of messages that are unknown, or whose record is damaged, are ignored. @throws MeshError `unavailable` */
  update(updates: readonly StatusUpdate[]): Promise<void>;
  /** Drops records accepted before `beforeMs`, some at a time; true when there may be more. */
  expire(beforeMs: number): Promise<boolean>;
}
