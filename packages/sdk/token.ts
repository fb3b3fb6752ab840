import { ChatError } from './errors.js';

/** The UUID that stands for "no device named". */
const nilUuid = '00000000-0000-0000-0000-000000000000';

/**
 * Who a token is for. Reads the claims without verifying them: that is the server's business.
 * @throws ChatError invalid_argument when it is no JWT with a `sub`
 */
export function readToken(token: string): { userId: string; deviceId: string } {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: unknown; did?: unknown };
    if (typeof claims.sub !== 'string') throw new Error('it has no "sub"');
    return { userId: claims.sub, deviceId: typeof claims.did === 'string' ? claims.did : nilUuid };
  } catch (cause) {
    throw new ChatError('invalid_argument', 'the token is not a JWT of a chatmesh user', undefined, { cause });
  }
}
