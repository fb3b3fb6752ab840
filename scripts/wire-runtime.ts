import type { Message } from '@bufbuild/protobuf';

/**
 * The protobuf encoding of one message type, specialised for its fields. Written by protobuf-es's toBinary it would be
 * the same bytes; what is read equals what fromBinary returns, save that unknown fields are not kept.
 */
export interface WireCodec<T extends Message = Message> {
  /** The message with nothing set, as `create(schema)` returns it. */
  create(): T;
  /** @throws RangeError for a number that its type cannot hold. */
  encode(message: T): Buffer;
  /**
   * The `bytes` fields of the result are views into the given bytes.
   *
   * @throws RangeError when the bytes are not a message: cut off, overlong, or of no wire type.
   * @throws TypeError when text is not UTF-8.
   */
  decode(bytes: Uint8Array): T;
}

/** What a `bytes` field holds when it is not set. One for all, since nothing in it can be changed. */
export const NO_BYTES: Uint8Array<ArrayBuffer> = new Uint8Array(0);

const FIRST_BYTES = 16 * 1024;
/** A buffer that one large message made larger than this is not kept for the small ones that follow. */
const KEPT_BYTES = 1024 * 1024;
/** Up to this many UTF-16 units a loop is faster than the call into the engine that encodes UTF-8. */
const SHORT_TEXT = 24;
/** A copy of up to this many bytes is cheaper as a loop than through a view. */
const SHORT_COPY_BYTES = 64;
/** The longest encoding of a tag and a 64-bit number. */
const NUMBER_BYTES = 15;
const LENGTH_BYTES = 5;
/** How deep the groups may be nested that are skipped; the messages themselves are never recursive. */
const MAX_GROUP_DEPTH = 100;

const VARINT = 0;
const BIT64 = 1;
const LENGTH_DELIMITED = 2;
const START_GROUP = 3;
const END_GROUP = 4;
const BIT32 = 5;

/** Methods that Node's Buffer has, undeclared: without them, each string would pay for the checks of toString(). */
interface Utf8Methods {
  utf8Slice(this: Uint8Array, start: number, end: number): string;
  utf8Write(this: Uint8Array, text: string, offset: number): number;
}
const { utf8Slice, utf8Write } = Buffer.prototype as unknown as Utf8Methods;
// A leading U+FEFF is text, not a byte-order mark.
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Writes one message after the other into the same memory. Fields carry their tag: number and wire type. */
export class WireWriter {
  #buffer = Buffer.allocUnsafeSlow(FIRST_BYTES);
  #position = 0;
  /**
   * How many bytes the length of the last nested message took. The next one gets as many to begin with: neighbours are
   * alike, and a wrong guess costs a move of the nested bytes.
   */
  #lengthSize = 1;

  /** Forgets what an encoding that failed has left. */
  begin(): this {
    this.#position = 0;
    return this;
  }

  /** What has been written since begin(), in memory of its own. */
  finish(): Buffer {
    const size = this.#position;
    const from = this.#buffer;
    const bytes = Buffer.allocUnsafe(size);
    if (size <= SHORT_COPY_BYTES) for (let i = 0; i < size; i++) bytes[i] = from[i] as number;
    else from.copy(bytes, 0, 0, size);
    if (from.length > KEPT_BYTES) this.#buffer = Buffer.allocUnsafeSlow(FIRST_BYTES);
    return bytes;
  }

  string(tag: number, text: string): void {
    const { length } = text;
    // A UTF-16 unit takes three bytes of UTF-8 at most.
    this.#reserve(LENGTH_BYTES + LENGTH_BYTES + length * 3);
    this.#varint(tag);
    const buffer = this.#buffer;
    const start = this.#position;
    if (length <= SHORT_TEXT) {
      let position = start + 1;
      let i = 0;
      for (; i < length; i++) {
        const unit = text.charCodeAt(i);
        if (unit > 0x7f) break;
        buffer[position++] = unit;
      }
      if (i === length) {
        buffer[start] = length;
        this.#position = position;
        return;
      }
    }
    const guess = sizeOfLength(length);
    const written = utf8Write.call(buffer, text, start + guess);
    const size = sizeOfLength(written);
    if (size !== guess) buffer.copyWithin(start + size, start + guess, start + guess + written);
    this.#varint(written);
    this.#position += written;
  }

  bytes(tag: number, bytes: Uint8Array): void {
    const { length } = bytes;
    this.#reserve(LENGTH_BYTES + LENGTH_BYTES + length);
    this.#varint(tag);
    this.#varint(length);
    this.#buffer.set(bytes, this.#position);
    this.#position += length;
  }

  bool(tag: number, value: boolean): void {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    this.#buffer[this.#position++] = value ? 1 : 0;
  }

  uint32(tag: number, value: number): void {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    this.#uint32(value);
  }

  /** An int32, or a number of an enumeration. */
  int32(tag: number, value: number): void {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    this.#int32(value);
  }

  uint64(tag: number, value: bigint): void {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    this.#uint64(value);
  }

  int64(tag: number, value: bigint): void {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    this.#int64(value);
  }

  /** One element of a packed list, between open() and close(). */
  packedBool(value: boolean): void {
    this.#reserve(NUMBER_BYTES);
    this.#buffer[this.#position++] = value ? 1 : 0;
  }

  packedUint32(value: number): void {
    this.#reserve(NUMBER_BYTES);
    this.#uint32(value);
  }

  packedInt32(value: number): void {
    this.#reserve(NUMBER_BYTES);
    this.#int32(value);
  }

  packedUint64(value: bigint): void {
    this.#reserve(NUMBER_BYTES);
    this.#uint64(value);
  }

  packedInt64(value: bigint): void {
    this.#reserve(NUMBER_BYTES);
    this.#int64(value);
  }

  /** Begins a nested message, a map's entry or a packed list. @returns what close() needs */
  open(tag: number): number {
    this.#reserve(NUMBER_BYTES);
    this.#varint(tag);
    const start = this.#position + this.#lengthSize;
    this.#position = start;
    // The guess is kept with the position, because a message inside changes it.
    return start * 8 + this.#lengthSize;
  }

  close(opened: number): void {
    const guess = opened % 8;
    const start = (opened - guess) / 8;
    const length = this.#position - start;
    const size = sizeOfLength(length);
    if (size !== guess) {
      this.#reserve(LENGTH_BYTES);
      this.#buffer.copyWithin(start - guess + size, start, this.#position);
      this.#lengthSize = size;
    }
    this.#position = start - guess;
    this.#varint(length);
    this.#position += length;
  }

  #reserve(bytes: number): void {
    const needed = this.#position + bytes;
    if (needed > this.#buffer.length) this.#grow(needed);
  }

  #grow(needed: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#buffer.length * 2));
    this.#buffer.copy(larger, 0, 0, this.#position);
    this.#buffer = larger;
  }

  /** An unsigned number below 2^32 for which there is room. */
  #varint(value: number): void {
    const buffer = this.#buffer;
    let position = this.#position;
    while (value > 0x7f) {
      buffer[position++] = (value & 0x7f) | 0x80;
      value >>>= 7;
    }
    buffer[position++] = value;
    this.#position = position;
  }

  #uint32(value: number): void {
    if (value >>> 0 !== value) throw new RangeError(`not a uint32: ${value}`);
    this.#varint(value);
  }

  #int32(value: number): void {
    if ((value | 0) !== value) throw new RangeError(`not an int32: ${value}`);
    // A negative number is written as the 64-bit one that it is equal to.
    if (value < 0) this.#varint64(value >>> 0, 0xffffffff);
    else this.#varint(value);
  }

  #uint64(value: bigint): void {
    const number = Number(value);
    if (number >= 0 && number <= Number.MAX_SAFE_INTEGER) this.#varint64(number >>> 0, (number / 0x100000000) >>> 0);
    else {
      if (BigInt.asUintN(64, value) !== value) throw new RangeError(`not a uint64: ${value}`);
      this.#varint64(Number(value & 0xffffffffn), Number(value >> 32n));
    }
  }

  #int64(value: bigint): void {
    if (BigInt.asIntN(64, value) !== value) throw new RangeError(`not an int64: ${value}`);
    this.#uint64(BigInt.asUintN(64, value));
  }

  #varint64(low: number, high: number): void {
    const buffer = this.#buffer;
    let position = this.#position;
    while (high > 0) {
      buffer[position++] = (low & 0x7f) | 0x80;
      low = ((low >>> 7) | (high << 25)) >>> 0;
      high >>>= 7;
    }
    this.#position = position;
    this.#varint(low);
  }
}

/** Encoding is never interrupted, so that one writer serves all. */
export const writer = new WireWriter();

/**
 * Reads what a WireWriter, or any other encoder, has written. Whoever reads a message reads tags up to its end(), and
 * done() then finds a field that reached beyond it. Nothing is read beyond the bytes.
 */
export class WireReader {
  position = 0;
  readonly #bytes: Uint8Array;
  readonly #length: number;
  /** The upper half of the 64-bit number that was read last. */
  #high = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#length = bytes.length;
  }

  tag(): number {
    const start = this.position;
    const byte = this.#bytes[start] as number;
    // Undefined, at the end of the bytes, is not below it either.
    if (byte < 0x80) {
      this.position = start + 1;
      return byte;
    }
    const tag = this.#varint();
    if (this.#high !== 0 || this.position - start > LENGTH_BYTES) throw new RangeError('a tag is too long');
    return tag;
  }

  /** Reads a length. @returns the position at which what it counts ends */
  end(): number {
    const length = this.uint32();
    const end = this.position + length;
    if (end > this.#length) throw new RangeError('the message is cut off');
    return end;
  }

  /** Checks that what should end at `end` has done so. */
  done(end: number): void {
    if (this.position !== end) throw new RangeError('a field is longer than its message');
  }

  string(): string {
    const start = this.position;
    const first = this.#bytes[start] as number;
    let end: number;
    if (first < 0x80) {
      this.position = start + 1;
      end = start + 1 + first;
      if (end > this.#length) throw new RangeError('the message is cut off');
    } else end = this.end();
    const from = this.position;
    if (from === end) return '';
    this.position = end;
    const text = utf8Slice.call(this.#bytes, from, end);
    // What is no UTF-8 comes out as U+FFFD; only the strict decoder tells it from a U+FFFD that was sent.
    return text.includes('\ufffd') ? strictUtf8.decode(this.#bytes.subarray(from, end)) : text;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const end = this.end();
    const from = this.position;
    this.position = end;
    const bytes = this.#bytes;
    // Not subarray(): of a Buffer it would be a Buffer, whose slice() does not copy.
    return new Uint8Array(bytes.buffer as ArrayBuffer, bytes.byteOffset + from, end - from);
  }

  bool(): boolean {
    return this.#varint() !== 0 || this.#high !== 0;
  }

  /** The lower half of a longer number, as all of protobuf's readers take it. */
  uint32(): number {
    const byte = this.#bytes[this.position] as number;
    if (byte < 0x80) {
      this.position++;
      return byte;
    }
    return this.#varint();
  }

  /** An int32, or a number of an enumeration. */
  int32(): number {
    return this.uint32() | 0;
  }

  uint64(): bigint {
    const low = this.#varint();
    const high = this.#high;
    if (high <= 0x1fffff) return BigInt(low + high * 0x100000000);
    return (BigInt(high) << 32n) | BigInt(low);
  }

  int64(): bigint {
    return BigInt.asIntN(64, this.uint64());
  }

  /** An unsigned number of any width as one of JavaScript's, which is exact below 2^53. */
  number(): number {
    const low = this.#varint();
    return low + this.#high * 0x100000000;
  }

  /** Passes over a field that the message does not have, or has with another wire type. */
  skip(tag: number, depth = 0): void {
    if (tag >>> 3 === 0) throw new RangeError('a field has the number 0');
    switch (tag & 7) {
      case VARINT:
        this.#varint();
        break;
      case BIT64:
        this.#pass(8);
        break;
      case LENGTH_DELIMITED:
        this.position = this.end();
        break;
      case START_GROUP:
        this.#skipGroup(tag, depth);
        break;
      case BIT32:
        this.#pass(4);
        break;
      default:
        throw new RangeError(`a field has the wire type ${tag & 7}`);
    }
  }

  #skipGroup(tag: number, depth: number): void {
    if (depth === MAX_GROUP_DEPTH) throw new RangeError('groups are nested too deeply');
    const endTag = tag - START_GROUP + END_GROUP;
    for (let inner = this.tag(); inner !== endTag; inner = this.tag()) this.skip(inner, depth + 1);
  }

  #pass(bytes: number): void {
    this.position += bytes;
    if (this.position > this.#length) throw new RangeError('the message is cut off');
  }

  /** @returns the lower 32 bits, unsigned; the upper ones are in #high */
  #varint(): number {
    const bytes = this.#bytes;
    let position = this.position;
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (position >= this.#length) throw new RangeError('the message is cut off');
      const byte = bytes[position++] as number;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (byte < 0x80) {
        this.position = position;
        this.#high = high >>> 0;
        return low >>> 0;
      }
    }
    throw new RangeError('a number is longer than ten bytes');
  }
}

/** Sets an entry of a map. Assigning to `__proto__` would not. */
export function setEntry<T>(map: Record<string, T>, key: string, value: T): void {
  if (key === '__proto__')
    Object.defineProperty(map, key, { value, enumerable: true, configurable: true, writable: true });
  else map[key] = value;
}

function sizeOfLength(length: number): number {
  if (length < 0x80) return 1;
  if (length < 0x4000) return 2;
  if (length < 0x200000) return 3;
  return length < 0x10000000 ? 4 : 5;
}
