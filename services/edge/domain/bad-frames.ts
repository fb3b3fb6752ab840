import type { ErrorKind } from '@chatmesh/mesh';

/** So many bad frames in a row close a connection with 1008, by the wire contract. */
export const MAX_BAD_FRAMES = 10;

/** Not the client's fault. */
const OURS: ReadonlySet<ErrorKind> = new Set<ErrorKind>(['unavailable', 'internal', 'deadline_exceeded', 'cancelled']);

/**
 * Whether a frame was bad that is answered with an error of this kind.
 *
 * What cannot be read is bad, whatever it was meant to be. A message that can be read is not: its refusal (the rate, an unknown
 * recipient, another's sender_id) is the answer that its sender waits for. Of all other frames, which are answered only
 * when something is wrong with them (`unimplemented`, `not_found`, `unauthenticated`), each refused one is bad, unless
 * it was refused for a reason of ours.
 */
export function isBadFrame(kind: ErrorKind, carriesMessage: boolean): boolean {
  return kind === 'invalid_argument' || (!carriesMessage && !OURS.has(kind));
}
