import { hash } from 'node:crypto';

const BLOCK_BYTES = 64;

/**
 * HMAC-SHA-256 (RFC 2104) under one key, truncated to 128 bits, as hexadecimal text. Tells whether a repeated
 * client_message_id carries the same recipient and content, without keeping either: a plain digest of a short text
 * could be guessed. Two one-shot hashes cost less than half of a streaming HMAC object.
 */
export class Fingerprinter {
  readonly #inner: Buffer;
  readonly #outer: Buffer;

  /** @param key at least 32 random bytes, at most 64. */
  constructor(key: Uint8Array) {
    const block = Buffer.alloc(BLOCK_BYTES);
    block.set(key);
    this.#inner = Buffer.from(block.map((byte) => byte ^ 0x36));
    this.#outer = Buffer.from(block.map((byte) => byte ^ 0x5c));
  }

  /** The fingerprint of a message: its recipient's id and, for plain text, its encoded payload. */
  of(recipientId: string, payload: Uint8Array): string {
    const inner = hash('sha256', Buffer.concat([this.#inner, Buffer.from(recipientId, 'latin1'), payload]), 'buffer');
    return hash('sha256', Buffer.concat([this.#outer, inner]), 'hex').slice(0, 32);
  }
}
