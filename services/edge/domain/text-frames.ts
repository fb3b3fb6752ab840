const FIN_AND_TEXT = 0x81;
/** The longest texts that two bytes, and four, can stand before: RFC 6455, section 5.2. */
const MAX_SHORT = 125;
const MAX_MEDIUM = 0xffff;
/** Most texts are of a length that needs so many; where another one does, the text moves. */
const USUAL_HEAD = 4;
const FIRST_BYTES = 512;
/** Up to so many characters a loop is faster than the call into the engine. */
const SHORT_TEXT = 32;

/**
 * WebSocket messages of one frame each, unmasked as a server's are, back to back: RFC 6455, section 5.2. Their texts are
 * put together in the one piece of memory that is written out, because a string per message would be made only to be copied.
 */
export class TextFrames {
  #bytes = Buffer.allocUnsafe(FIRST_BYTES);
  /** Where the messages end; one that is open does not count. */
  #end = 0;
  /** Where the text of the open message goes on. */
  #at = 0;

  /** How many bytes the messages take so far. */
  get length(): number {
    return this.#end;
  }

  /** Adds a message. */
  add(text: string): void {
    this.open();
    this.text(text);
    this.close();
  }

  /** Begins a message, whose text is what is added up to {@link close}. One that was not closed is forgotten. */
  open(): void {
    this.#at = this.#end;
    this.#reserve(USUAL_HEAD);
    this.#at += USUAL_HEAD;
  }

  /** Adds to the open message. */
  text(text: string): void {
    const { length } = text;
    // A UTF-16 unit takes three bytes of UTF-8 at most.
    this.#reserve(length * 3);
    const bytes = this.#bytes;
    let at = this.#at;
    if (length <= SHORT_TEXT) {
      let i = 0;
      for (; i < length; i++) {
        const unit = text.charCodeAt(i);
        if (unit > 0x7f) break;
        bytes[at++] = unit;
      }
      if (i === length) {
        this.#at = at;
        return;
      }
    }
    this.#at += bytes.write(text, this.#at);
  }

  /** Adds UTF-8 to the open message: `bytes` from `from` to below `to`. */
  utf8(bytes: Uint8Array, from: number, to: number): void {
    this.#reserve(to - from);
    const target = this.#bytes;
    let at = this.#at;
    for (let i = from; i < to; i++) target[at++] = bytes[i] as number;
    this.#at = at;
  }

  /** Adds UTF-8 to the open message as it stands in a string of JSON, without the quotes. */
  jsonUtf8(bytes: Uint8Array, from: number, to: number): void {
    this.#reserve(to - from);
    const target = this.#bytes;
    let at = this.#at;
    for (let i = from; i < to; i++) {
      const byte = bytes[i] as number;
      if (byte < 0x20 || byte === 0x22 || byte === 0x5c) {
        const escaped = JSON.stringify(Buffer.from(bytes.buffer, bytes.byteOffset + from, to - from).toString());
        this.text(escaped.slice(1, -1));
        return;
      }
      target[at++] = byte;
    }
    this.#at = at;
  }

  /** Ends the open message. */
  close(): void {
    const start = this.#end;
    const begin = start + USUAL_HEAD;
    const length = this.#at - begin;
    const head = length <= MAX_SHORT ? 2 : length <= MAX_MEDIUM ? 4 : 10;
    if (head !== USUAL_HEAD) {
      this.#reserve(head);
      this.#bytes.copyWithin(start + head, begin, this.#at);
    }
    const bytes = this.#bytes;
    bytes[start] = FIN_AND_TEXT;
    if (head === 2) bytes[start + 1] = length;
    else if (head === 4) {
      bytes[start + 1] = 126;
      bytes.writeUInt16BE(length, start + 2);
    } else {
      bytes[start + 1] = 127;
      bytes.writeUInt32BE(0, start + 2);
      bytes.writeUInt32BE(length, start + 6);
    }
    this.#end = start + head + length;
  }

  /** The messages. Nothing is added any more: the memory is the caller's. */
  finish(): Buffer {
    return this.#bytes.subarray(0, this.#end);
  }

  #reserve(more: number): void {
    const needed = this.#at + more;
    if (needed > this.#bytes.length) this.#grow(needed);
  }

  #grow(needed: number): void {
    const larger = Buffer.allocUnsafe(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(larger, 0, 0, this.#at);
    this.#bytes = larger;
  }
}
