import type { LogEvent } from '@chatmesh/gen/chat/v1/log';

/**
 * Where an event stands in the log: hexadecimal text of a fixed width, whose order as text is the order of the events of one key.
 */
export type Position = string;

/** One event as the log hands it to the owner of its key. */
export interface LogRecord {
  readonly position: Position;
  readonly event: LogEvent;
  /** The event as it is encoded; not to be changed. */
  readonly payload: Uint8Array;
  /**
   * True when the event may have been handled before: it was on the log when the log was opened, or its key came
   * from another consumer, and for as long as the log cannot tell. False proves that it is handed out for the first time.
   */
  readonly mayRepeat: boolean;
  /** Another number than that of the key's record before, if the key may have been another consumer's in between. */
  readonly tenure: number;
}

/** An event of which what is stored is damaged. Nobody knows for certain what it was, or whose. */
export interface DamagedEvent {
  readonly position: Position;
  /** What stands in its place. */
  readonly bytes: Uint8Array;
}

/** How a consumer takes part. */
export interface ConsumeOptions {
  /** So many records are out at a time at the most; the rest waits on the log. */
  readonly maxUnacknowledged: number;
  /**
   * Called when the keys of a tenure are no longer this consumer's: what it has of them unacknowledged is handed to another
   * one, or handed out again, and acknowledging it has no effect.
   */
  readonly lost?: (tenure: number) => void;
  /** Called with an event that is damaged, in place of handing it out; the log forgets it when the promise resolves. */
  readonly damaged?: (event: DamagedEvent) => Promise<void>;
}

/** A member of the group of consumers that share the log. */
export interface LogConsumer {
  /** Records that it has been handed and has not acknowledged. */
  readonly unacknowledged: number;
  /** Whether the events of a key are handed to it now; false also while that is not certain. */
  owns(userId: string): boolean;
  /** When the oldest message or receipt among these was accepted, milliseconds since 1970; undefined without any. */
  oldestAtMs(): number | undefined;
  /** How long an event takes through the log to this consumer, milliseconds, as far as is known; 0 where that takes no time. */
  lagMs(): number;
  /** Marks records as handled: they are not handed out again, at the latest one second later. */
  acknowledge(records: readonly LogRecord[]): void;
  /**
   * Resolves when nothing that is acknowledged by now will be handed out again, whatever dies.
   *
   * @throws MeshError `unavailable` when that could not be written; it is tried again by itself.
   */
  flushed(): Promise<void>;
  /** Leaves: what is not acknowledged is handed to other consumers, in order. */
  close(): Promise<void>;
}

/**
 * Every accepted event, until it is handled. The key of an event is its `userId`.
 *
 * Each key belongs to one consumer at a time. Its events are handed out in the order in which they were published;
 * when the key moves, the new consumer gets what was not acknowledged, in order, before anything newer.
 */
export interface MessageLog extends AsyncDisposable {
  /**
   * Appends events. They keep the order of the array and of the calls.
   *
   * `record` is called once with their positions, as soon as nothing that it hands to the status store can become durable
   * without the events: when they are durable, or, where log and store share their group commits, at once, so that both go
   * to the disk together.
   *
   * @returns their positions, when all of them are durable.
   * @throws MeshError `unavailable` when they could not be made durable: none of them may be taken as accepted.
   */
  publish(events: readonly LogEvent[], record?: (positions: readonly Position[]) => void): Promise<Position[]>;
  /**
   * Joins the group of consumers. `handle` gets records in order and must not throw.
   *
   * @throws MeshError `unavailable`
   */
  consume(handle: (records: LogRecord[]) => void, options: ConsumeOptions): Promise<LogConsumer>;
  /**
   * When the last was published of what is, or ever was, on the log as it was opened, by its publisher's clock, or a little later;
   * milliseconds since 1970, 0 where nothing was. Everything that was accepted before was accepted no later.
   */
  readonly publishedUntilMs: number;
  /** False while the last attempt to write failed. */
  readonly writable: boolean;
  /**
   * False while so much waits in the user's part of the log that no new message should be accepted for it. Everything else is
   * published all the same: receipts and confirmations are what empties it.
   */
  takesMessages(userId: string): boolean;
  /** Whether the log certainly has an event that it will hand out, or has handed out, and that nobody has acknowledged. */
  holds(position: Position): boolean;
}
