import type { MessageEvent } from '@chatmesh/gen/chat/v1/log';
import { ChurnMap, ChurnSet } from '@chatmesh/mesh';
import type { LogRecord, Position } from '../stores/message-log.js';
import type { EdgeLink } from './edge-link.js';
import type { Recipient } from './recipient.js';

/** One event in the hands of the owner, shared by all devices that it is for. */
export interface Tracked {
  readonly recipient: Recipient;
  /** What a device confirms it by. */
  readonly id: string;
  readonly payload: Uint8Array;
  /** Set for messages. */
  readonly message: MessageEvent | undefined;
  /** The step before, where the event is followed; else empty. */
  readonly traceparent: string;
  /** The record on the log, as long as the log holds it. */
  record: LogRecord | undefined;
  /** When it was handed to this owner, by the monotonic clock. */
  readonly receivedAtMs: number;
  /** An operator has had it handled again: whoever sent it was told that it failed, and is not told otherwise. */
  readonly redriven: boolean;
  /** Devices for which the event is neither stored in the inbox nor durably confirmed: at 0 the log may forget it. */
  open: number;
  /** Deliveries that are in a window or settle: at 0 the actor may forget the event. */
  deliveries: number;
  /** 0 until a device of the recipient confirmed it. */
  deliveredAtMs: number;
  /** 0 until it was read. */
  readAtMs: number;
}

/** One event on its way to one device. It moves from the log to the inbox, or straight to confirmed. */
export interface Delivery {
  readonly tracked: Tracked;
  readonly device: Device;
  readonly position: Position;
  /** True while it counts in `tracked.open`. */
  counted: boolean;
  /** Its row in the inbox: `none` to `writing` to `written`. */
  row: 'none' | 'writing' | 'written';
  /** Confirmed durably while the row was being written: the row goes as soon as it is there. */
  confirmedEarly: boolean;
  /** When it was transmitted last, by the monotonic clock. */
  sentAtMs: number;
  attempts: number;
}

/** A session that this router is attached to, or is attaching to. */
export interface AttachedSession {
  readonly link: EdgeLink;
  readonly number: number;
  /** Milliseconds since 1970. */
  readonly attachedAtMs: number;
  /** The edge has confirmed the attachment. */
  ready: boolean;
  /** Of the device's sessions the one with the highest stays. */
  readonly order: number;
  /** Position of the opening: caught_up follows everything up to it. */
  readonly openedAt: Position;
  caughtUp: boolean;
  /** Rows of the inbox that it was sent; undefined once the inbox had no more. */
  drained: number | undefined;
}

/** At most so many messages are on their way to a device and not confirmed. */
export const MESSAGE_WINDOW = 256;
/** The same for receipts: more of them, so that a client that is slow to ack them still gets its messages. */
export const RECEIPT_WINDOW = 1024;
/** As many as an owner before may have had on their way; whoever acks more acks what it was not sent. */
const MAX_ACKED_EARLY = RECEIPT_WINDOW;
/** At most so many confirmations of a device wait for the disk before it is sent more. */
const SETTLING_WINDOW = 2048;

/**
 * One device of a recipient.
 *
 * `offline` (no session) to `draining` when a session is attached; `draining` to `live` when its inbox is empty; `live`
 * to `draining` when the window is full; any to `offline` when the session goes.
 */
export class Device {
  readonly id: string;
  readonly recipient: Recipient;
  state: 'offline' | 'draining' | 'live' = 'offline';
  session: AttachedSession | undefined;
  /** The highest order of its sessions so far. */
  highestOrder = 0;
  /** Deliveries of messages, and of receipts, that are in the window. */
  messagesOut = 0;
  receiptsOut = 0;
  /** Grows with each append that has completed. */
  appends = 0;
  /** The last position transmitted to the present session. */
  cursor: Position | undefined;
  draining = false;
  // Made when they are used: most devices are idle, and the four, empty, take 250 bytes.
  #window: ChurnMap<string, Delivery> | undefined;
  #settling: ChurnSet<string> | undefined;
  #ackedEarly: ChurnSet<string> | undefined;
  #appending: ChurnSet<Position> | undefined;

  constructor(recipient: Recipient, id: string) {
    this.recipient = recipient;
    this.id = id;
  }

  /** Transmitted and not confirmed, by id, in the order of transmission. */
  get window(): ChurnMap<string, Delivery> {
    this.#window ??= new ChurnMap();
    return this.#window;
  }

  /** Confirmed, but the confirmation is not durable yet: by id. */
  get settling(): ChurnSet<string> {
    this.#settling ??= new ChurnSet();
    return this.#settling;
  }

  /** Remembers a receipt that the device acked and that the log may still hand out: in another owner's time, or from the inbox. */
  rememberAck(id: string): void {
    if (!this.#ackedEarly || this.#ackedEarly.size >= MAX_ACKED_EARLY) this.#ackedEarly = new ChurnSet();
    this.#ackedEarly.add(id);
  }

  /** Whether the device acked a receipt that comes only now; it comes once. */
  hasAcked(id: string): boolean {
    return this.#ackedEarly?.delete(id) ?? false;
  }

  /** Forgets acks of receipts that have not come. */
  forgetAcks(): void {
    this.#ackedEarly = undefined;
  }

  /** Rows on their way into the inbox. */
  get appending(): ChurnSet<Position> {
    this.#appending ??= new ChurnSet();
    return this.#appending;
  }

  /** Whether rows are on their way into the inbox. */
  get hasAppending(): boolean {
    return this.#appending !== undefined && this.#appending.size > 0;
  }

  /** Whether one more message, or receipt, may be sent. */
  hasRoom(isMessage: boolean): boolean {
    if (this.#settling && this.#settling.size >= SETTLING_WINDOW) return false;
    return isMessage ? this.messagesOut < MESSAGE_WINDOW : this.receiptsOut < RECEIPT_WINDOW;
  }

  /** How many events of any kind may be sent. */
  get room(): number {
    const settling = this.#settling?.size ?? 0;
    return Math.min(MESSAGE_WINDOW - this.messagesOut, RECEIPT_WINDOW - this.receiptsOut, SETTLING_WINDOW - settling);
  }

  /** Counts a delivery that has entered the window, or left it. */
  count(delivery: Delivery, change: 1 | -1): void {
    if (delivery.tracked.message) this.messagesOut += change;
    else this.receiptsOut += change;
  }

  /** How many events are on their way to the disk: confirmations, and rows. */
  get writing(): { settling: number; appending: number } {
    return { settling: this.#settling?.size ?? 0, appending: this.#appending?.size ?? 0 };
  }

  /** When the oldest of what is not confirmed was last transmitted, by the monotonic clock; undefined when all is confirmed. */
  get oldestUnconfirmedAtMs(): number | undefined {
    const [oldest] = this.#window?.values() ?? [];
    return oldest?.sentAtMs;
  }

  /** What has to happen before the device is sent more; '' when nothing has to. */
  get waitsFor(): string {
    const { settling, appending } = this.writing;
    if (!this.session) return appending > 0 ? `${appending} rows to reach the inbox` : 'a session';
    if (!this.session.ready) return "its edge's answer";
    if (settling >= SETTLING_WINDOW) return 'confirmations to reach the disk';
    if (!this.hasRoom(true)) return `confirmations of ${this.messagesOut} messages`;
    if (!this.hasRoom(false)) return `acks of ${this.receiptsOut} receipts`;
    if (this.draining) return 'a page of the inbox';
    return this.state === 'draining' && appending > 0 ? `${appending} rows to reach the inbox` : '';
  }

  /** Nothing of this device is on its way. */
  get idle(): boolean {
    return !this.session && !this.#window?.size && !this.#settling?.size && !this.hasAppending;
  }
}
