import type { Position } from './message-log.js';

/** One event that waits for one device. */
export interface InboxRow {
  readonly userId: string;
  readonly deviceId: string;
  readonly position: Position;
  /** An encoded LogEvent. */
  readonly payload: Uint8Array;
}

/** An inbox in which something has waited since before a point in time. */
export interface AgedInbox {
  readonly userId: string;
  readonly deviceId: string;
}

/** What a device has not confirmed, in the order of the log. */
export interface InboxStore extends AsyncDisposable {
  /**
   * Adds rows; a replay overwrites its own row. `nowMs` decides the week under which they are listed.
   *
   * @throws MeshError `unavailable` when they could not be made durable.
   */
  append(rows: readonly InboxRow[], nowMs: number): Promise<void>;
  /** Up to `limit` rows of a device after `after` (from the start when undefined), in order. */
  page(userId: string, deviceId: string, after: Position | undefined, limit: number): Promise<InboxRow[]>;
  /** Removes rows of a device, durably. Unknown positions are no error. */
  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void>;
  /** Removes everything of a device. */
  clear(userId: string, deviceId: string): Promise<void>;
  /** Inboxes to which something was added in weeks that ended before `beforeMs`. */
  aged(beforeMs: number): Promise<AgedInbox[]>;
  /** Forgets the listing of weeks that ended before `beforeMs`, after their rows were dealt with. */
  forgetWeeks(beforeMs: number): Promise<void>;
}
