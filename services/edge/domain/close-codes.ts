import type { ErrorKind } from '@chatmesh/mesh';

/** Why the server ends a session: the WebSocket's close codes, and how a stream ends in the same case. */
export const CLOSE = {
  goingAway: 1001,
  policy: 1008,
  tooBig: 1009,
  overloaded: 1013,
  tokenExpired: 4401,
  revoked: 4403,
  silent: 4408,
  replaced: 4409,
} as const;

const KINDS: Record<number, ErrorKind> = {
  1001: 'unavailable',
  1008: 'invalid_argument',
  1009: 'invalid_argument',
  1013: 'resource_exhausted',
  4401: 'unauthenticated',
  4403: 'permission_denied',
  4408: 'unavailable',
  4409: 'aborted',
};

/** How a stream ends where a WebSocket would close with `code`. */
export function streamErrorKind(code: number): ErrorKind {
  return KINDS[code] ?? 'unavailable';
}
