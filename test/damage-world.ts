import { createHash } from 'node:crypto';

/** Who is there, and what they have sent: the same in each process of a test of damage. */
export const USERS = 10;
const PER_PAIR = 15;
/** Waiting messages: of each user, to each other one. */
export const WAITING = USERS * (USERS - 1) * PER_PAIR;
/** Messages to this one wait on the log, those to others in inboxes. */
export const UNHANDLED = 9;

export interface Sent {
  readonly from: number;
  readonly to: number;
  readonly clientMessageId: string;
}

export function userOf(index: number): string {
  return uuidOf(`user ${index}`);
}

export function deviceOf(index: number): string {
  return uuidOf(`device ${index}`);
}

/** Messages from each user to each other, in the order in which they are sent; `round` tells those of one sending from others. */
export function messages(round: string, perPair: number): Sent[] {
  const sent: Sent[] = [];
  for (let n = 0; n < perPair; n++) {
    for (let from = 0; from < USERS; from++) {
      for (let to = 0; to < USERS; to++)
        if (from !== to) sent.push({ from, to, clientMessageId: uuidOf(`${round} ${from} ${to} ${n}`) });
    }
  }
  return sent;
}

export function waitingMessages(): Sent[] {
  return messages('waiting', PER_PAIR);
}

/** What a message says: 10 to 6,000 bytes, so that some rows have pages of their own. */
export function textOf(clientMessageId: string): Buffer {
  const seed = createHash('sha256').update(clientMessageId).digest();
  const bytes = seed[0] !== undefined && seed[0] < 64 ? seed.readUInt16LE(1) % 6000 : seed.readUInt16LE(1) % 400;
  return Buffer.alloc(10 + bytes, seed.toString('base64'));
}

function uuidOf(text: string): string {
  const hex = createHash('sha256').update(text).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}
