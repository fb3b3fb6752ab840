import type { Account, Route } from '../jobs.js';
import { Sequence } from './sequence.js';
import { frameBytes, maskByte, writeTextFrame } from './websocket.js';

/** How many send times a flow remembers: more than are ever on their way in an open loop that keeps up. */
const REMEMBERED_SENDS = 1024;
const DIGITS = Array.from('0123456789abcdef', (digit) => maskByte(digit.charCodeAt(0)));

/** Which message: found in every frame that concerns it. */
export interface Mark {
  flow: number;
  number: number;
}

/**
 * The messages of one sender to one recipient, numbered from 0, and the checks of what becomes of them.
 *
 * The mark `FFFFNNNNNNNN` (flow and number, hex) ends the client_message_id and follows the run's four digits at the
 * beginning of the text, so every frame that comes back is assigned without a look-up.
 */
export class Flow {
  readonly sender: Account;
  readonly recipientId: string;
  readonly accepted = new Sequence();
  /** By the recipient's devices. */
  readonly received: Sequence[];
  readonly receipts = new Sequence();
  /** How many messages were handed to the sender's device. */
  queued = 0;
  /** How many of those were written. */
  written = 0;
  /** The accepted time of the youngest message received, by the recipient's devices. */
  readonly timestamps: string[];
  /** How many messages came with a timestamp before that of their predecessor. */
  backdated = 0;
  altered = 0;
  /** The text after the marker, one char per byte. */
  readonly #text: string;
  readonly #frame: Buffer;
  /** Where the frame holds the number's eight digits. */
  readonly #numberOffsets: number[];
  #writtenAt: Float64Array | undefined;

  /**
   * @param run eight hex digits that no other run of the generator uses.
   * @param textLength of a message in code points, the marker included.
   */
  constructor(index: number, run: string, route: Route, text: string, textLength: number) {
    this.sender = route.sender;
    this.recipientId = (route.recipient[0] as Account).userId;
    this.received = route.recipient.map(() => new Sequence());
    this.timestamps = route.recipient.map(() => '');
    const mark = `${index.toString(16).padStart(4, '0')}00000000`;
    const marker = `${run.slice(0, 4)}${mark} `;
    const tail = Array.from(text)
      .slice(0, textLength - marker.length)
      .join('');
    this.#text = latin1(` ${tail}`);
    const payload = latin1(
      JSON.stringify({
        sender_id: this.sender.userId,
        receiver_id: this.recipientId,
        content: `${marker}${tail}`,
        timestamp: new Date().toISOString(),
        client_message_id: `${run}-0000-4000-8000-${mark}`,
      }),
    );
    this.#frame = Buffer.alloc(frameBytes(payload.length));
    writeTextFrame(this.#frame, 0, payload);
    const head = this.#frame.length - payload.length;
    this.#numberOffsets = [`"${run.slice(0, 4)}${mark.slice(0, 4)}`, `-8000-${mark.slice(0, 4)}`].map(
      (context) => head + payload.indexOf(context) + context.length,
    );
  }

  /** Bytes of one send. */
  get frameBytes(): number {
    return this.#frame.length;
  }

  /** Writes the next send as a masked frame; returns where it ends. */
  writeNext(target: Buffer, at: number, now: number): number {
    const number = this.written++;
    this.#writtenAt ??= new Float64Array(REMEMBERED_SENDS);
    this.#writtenAt[number % REMEMBERED_SENDS] = now;
    this.#frame.copy(target, at);
    for (const offset of this.#numberOffsets) {
      for (let digit = 7, rest = number; digit >= 0; digit--, rest >>>= 4) {
        target[at + offset + digit] = DIGITS[rest & 0xf] as number;
      }
    }
    return at + this.#frame.length;
  }

  /** Milliseconds since the message was written, or undefined when that is forgotten. */
  age(number: number, now: number): number | undefined {
    if (!this.#writtenAt || number + REMEMBERED_SENDS < this.written) return undefined;
    return now - (this.#writtenAt[number % REMEMBERED_SENDS] as number);
  }

  /** Takes a message that arrived; false when the device had it before. */
  receive(device: number, number: number, content: string, timestamp: string): boolean {
    if (!content.endsWith(this.#text) || content.length !== 16 + this.#text.length) this.altered++;
    if (timestamp < (this.timestamps[device] as string)) this.backdated++;
    this.timestamps[device] = timestamp;
    return (this.received[device] as Sequence).see(number);
  }
}

/** The mark at the end of a client_message_id. */
export function markOfId(clientMessageId: string): Mark {
  return parseMark(clientMessageId, 24);
}

/** The mark at the beginning of a text, after the run's four digits. */
export function markOfText(content: string): Mark {
  return parseMark(content, 4);
}

function parseMark(text: string, at: number): Mark {
  return {
    flow: Number.parseInt(text.slice(at, at + 4), 16),
    number: Number.parseInt(text.slice(at + 4, at + 12), 16),
  };
}

/** One char for each byte of the text's UTF-8: the form in which frames are read. */
function latin1(text: string): string {
  return Buffer.from(text).toString('latin1');
}
