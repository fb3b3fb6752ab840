import { hash } from 'node:crypto';

/** The nil UUID: the device of a token without `did`. */
export const NIL_DEVICE = '00000000-0000-0000-0000-000000000000';

/** The inbox of a user who has no device yet: the first device to register takes it over. */
export const UNCLAIMED_DEVICE = 'ffffffff-ffff-ffff-ffff-ffffffffffff';

/** The inbox of dead letters. No token names such a user: the edge refuses it. */
export const DEAD_LETTERS_USER = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
export const DEAD_LETTERS_DEVICE = UNCLAIMED_DEVICE;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Whether `text` is a UUID in lower-case text. */
export function isUuid(text: string): boolean {
  return text.length === 36 && UUID.test(text);
}

/**
 * A UUIDv8 (RFC 9562, section 5.8) over SHA-256 of `parts`: the same parts give the same id on every node, for ever.
 */
export function derivedId(...parts: string[]): string {
  const hex = hash('sha256', parts.join('/'), 'hex');
  const variant = '89ab'[Number.parseInt(hex[16] as string, 16) & 3];
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

/** The server's id of a message, derived so that no failure can give one message two ids. */
export function serverMessageId(senderId: string, clientMessageId: string): string {
  return derivedId('message', senderId, clientMessageId);
}

const DIGITS = '0123456789abcdef';

/**
 * The event id of the receipt that says `status` of a message: the message's id with another first digit. The id is a
 * hash, so that this is as unique as a hash of its own.
 */
export function receiptEventId(messageId: string, status: number): string {
  return `${DIGITS[DIGITS.indexOf(messageId[0] as string) ^ status]}${messageId.slice(1)}`;
}
