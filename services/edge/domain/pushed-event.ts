import {
  type LogEvent,
  LogEventSchema,
  MessageEventSchema,
  type MessagePayload,
  MessagePayloadSchema,
  ReceiptEventSchema,
} from '@chatmesh/gen/chat/v1/log';
import { WireReader } from '@chatmesh/gen/wire';
import { LogEventWire, MessagePayloadWire } from '@chatmesh/gen/wire/chat/v1/log';

const VARINT = 0;
const LENGTH_DELIMITED = 2;

const MESSAGE_TAG = (LogEventSchema.field.message.number << 3) | LENGTH_DELIMITED;
const RECEIPT_TAG = (LogEventSchema.field.receipt.number << 3) | LENGTH_DELIMITED;
const CONTENT_TAG = (MessagePayloadSchema.field.content.number << 3) | LENGTH_DELIMITED;

/** The fields of a message that an edge looks at. */
export const MESSAGE = numbersOf(MessageEventSchema.field);
/** The fields of a receipt. */
export const RECEIPT = numbersOf(ReceiptEventSchema.field);
const FIELDS = 1 + Math.max(...Object.values(MESSAGE), ...Object.values(RECEIPT));
const NOTHING = new Uint8Array(0);

/**
 * An encoded LogEvent that a router pushes, a message or a receipt. What a client is sent of it is for the most part text
 * that stands in the encoding as it will stand in the frame: here is where, so that nobody makes strings of it in between.
 */
export class PushedEvent {
  /** The encoding. */
  bytes: Uint8Array = NOTHING;
  kind: 'message' | 'receipt' | undefined;
  /** Where the content of a message begins in the encoding, up to the end of the payload; undefined when it is sealed. */
  contentFrom: number | undefined;
  readonly #from = new Uint32Array(FIELDS);
  readonly #to = new Uint32Array(FIELDS);
  readonly #numbers = new Float64Array(FIELDS);

  /**
   * Makes this the event that is encoded in `bytes`.
   *
   * @throws RangeError when the bytes are not an event.
   */
  read(bytes: Uint8Array): this {
    this.bytes = bytes;
    this.kind = undefined;
    const reader = new WireReader(bytes);
    while (reader.position < bytes.length) {
      const tag = reader.tag();
      if (tag === MESSAGE_TAG) this.kind = 'message';
      else if (tag === RECEIPT_TAG) this.kind = 'receipt';
      else {
        reader.skip(tag);
        continue;
      }
      this.#locate(reader, reader.end());
    }
    reader.done(bytes.length);
    this.contentFrom = this.kind === 'message' ? this.#findContent(reader) : undefined;
    return this;
  }

  /** Where the text or the bytes of a field begin in the encoding. */
  from(field: number): number {
    return this.#from[field] as number;
  }

  /** Where they end; the same as where they begin when the field is not set. */
  to(field: number): number {
    return this.#to[field] as number;
  }

  /** A text of the event. */
  text(field: number): string {
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length).toString(
      'utf8',
      this.from(field),
      this.to(field),
    );
  }

  /** A number of the event; 1 for true. */
  number(field: number): number {
    return this.#numbers[field] as number;
  }

  /** The payload of a message. */
  payload(): MessagePayload['payload'] {
    return MessagePayloadWire.decode(this.bytes.subarray(this.from(MESSAGE.payload), this.to(MESSAGE.payload))).payload;
  }

  /** All of the event. */
  decode(): LogEvent {
    return LogEventWire.decode(this.bytes);
  }

  #findContent(reader: WireReader): number | undefined {
    const to = this.to(MESSAGE.payload);
    reader.position = this.from(MESSAGE.payload);
    if (reader.position === to || reader.tag() !== CONTENT_TAG) return undefined;
    return reader.end() === to ? reader.position : undefined;
  }

  #locate(reader: WireReader, end: number): void {
    this.#from.fill(0);
    this.#to.fill(0);
    this.#numbers.fill(0);
    while (reader.position < end) {
      const tag = reader.tag();
      const field = tag >>> 3;
      const type = tag & 7;
      if (field < FIELDS && type === LENGTH_DELIMITED) {
        const to = reader.end();
        this.#from[field] = reader.position;
        this.#to[field] = to;
        reader.position = to;
      } else if (field < FIELDS && type === VARINT) this.#numbers[field] = reader.number();
      else reader.skip(tag);
    }
    reader.done(end);
  }
}

function numbersOf<Name extends string>(fields: Record<Name, { number: number }>): Readonly<Record<Name, number>> {
  const numbers = {} as Record<Name, number>;
  for (const name in fields) numbers[name] = fields[name].number;
  return numbers;
}
