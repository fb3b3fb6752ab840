import type { Account } from '../jobs.js';
import type { Flow } from './flow.js';
import { RawWebSocket, writeTextFrame } from './websocket.js';

/** The protocol's limit for one ack frame. */
const IDS_PER_ACK = 256;
/** What one id adds to an array in a frame: 36 digits, two quotes, a comma. */
const ID_BYTES = 39;
/** Enough for a frame's head and fixed fields. */
const FRAME_BYTES = 96;

/** The fields of the server's frames that are looked at. */
export interface ServerFrame {
  content?: string;
  sender_id?: string;
  timestamp?: string;
  server_message_id?: string;
  client_message_id?: string;
  event_id?: string;
  status?: string;
  code?: string;
  caught_up?: boolean;
  error?: { code: string; message: string };
}

/** What a device needs from the run that it is part of. */
export interface Run {
  readonly idsPerReceipt: number;
  /** A frame came in. */
  frame(device: Device, frame: ServerFrame): void;
  /** The device has something to write at the end of the turn. */
  dirty(device: Device): void;
  /** The run cannot go on. */
  fail(error: Error): void;
}

/** One device's connection. What a turn of the event loop gives it to say goes out in one write. */
export class Device {
  readonly account: Account;
  /** Its number among the user's devices. */
  readonly slot: number;
  readonly #run: Run;
  #socket: RawWebSocket | undefined;
  #caughtUp: (() => void) | undefined;
  #sends: Flow[] = [];
  #confirmations: string[] = [];
  #acks: string[] = [];
  #isDirty = false;
  /** Memory of earlier writes, to be used again. */
  readonly #spare: Buffer[] = [];

  constructor(account: Account, slot: number, run: Run) {
    this.account = account;
    this.slot = slot;
    this.#run = run;
  }

  /** Connects; resolves at `caught_up`. */
  async connect(url: string): Promise<void> {
    const caughtUp = new Promise<void>((resolve) => {
      this.#caughtUp = resolve;
    });
    this.#socket = await RawWebSocket.connect(url, this.account.token, {
      onText: (text) => this.#text(text),
      onClose: (code) => this.#run.fail(new Error(`the server closed a connection with ${code ?? 'no close frame'}`)),
    });
    if (this.#isDirty) this.#run.dirty(this);
    await caughtUp;
  }

  async end(): Promise<void> {
    await this.#socket?.end();
  }

  send(flow: Flow): void {
    this.#sends.push(flow);
    this.#touch();
  }

  confirm(serverMessageId: string): void {
    this.#confirmations.push(serverMessageId);
    this.#touch();
  }

  ack(eventId: string): void {
    this.#acks.push(eventId);
    this.#touch();
  }

  /** Writes what the turn has gathered. */
  flush(): void {
    // Frames may precede the end of connect(), which comes back here.
    if (!this.#socket) return;
    this.#isDirty = false;
    const buffer = this.#memory(this.#pendingBytes());
    const now = performance.now();
    let at = 0;
    for (let i = 0; i < this.#confirmations.length; i += this.#run.idsPerReceipt) {
      at = writeTextFrame(buffer, at, receiptFrame(this.#confirmations.slice(i, i + this.#run.idsPerReceipt)));
    }
    for (let i = 0; i < this.#acks.length; i += IDS_PER_ACK) {
      at = writeTextFrame(buffer, at, `{"ack":["${this.#acks.slice(i, i + IDS_PER_ACK).join('","')}"]}`);
    }
    for (const flow of this.#sends) at = flow.writeNext(buffer, at, now);
    this.#confirmations = [];
    this.#acks = [];
    this.#sends = [];
    this.#socket.write(buffer.subarray(0, at), () => this.#spare.push(buffer));
  }

  #text(text: string): void {
    const frame = JSON.parse(text) as ServerFrame;
    if (frame.caught_up) this.#caughtUp?.();
    else this.#run.frame(this, frame);
  }

  #touch(): void {
    if (this.#isDirty) return;
    this.#isDirty = true;
    this.#run.dirty(this);
  }

  #pendingBytes(): number {
    let bytes = 0;
    for (const flow of this.#sends) bytes += flow.frameBytes;
    const frames =
      Math.ceil(this.#confirmations.length / this.#run.idsPerReceipt) + Math.ceil(this.#acks.length / IDS_PER_ACK);
    return bytes + frames * FRAME_BYTES + (this.#confirmations.length + this.#acks.length) * ID_BYTES;
  }

  #memory(bytes: number): Buffer {
    const spare = this.#spare.pop();
    return spare && spare.length >= bytes ? spare : Buffer.allocUnsafeSlow(Math.max(bytes, 16 * 1024));
  }
}

function receiptFrame(ids: string[]): string {
  return ids.length === 1
    ? `{"status":"delivered","server_message_id":"${ids[0]}"}`
    : `{"status":"delivered","server_message_ids":["${ids.join('","')}"]}`;
}
