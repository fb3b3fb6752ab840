/** The names of gRPC's codes, which are those of our errors. */
const codes = new Set([
  'cancelled',
  'unknown',
  'invalid_argument',
  'deadline_exceeded',
  'not_found',
  'already_exists',
  'permission_denied',
  'resource_exhausted',
  'failed_precondition',
  'aborted',
  'out_of_range',
  'unimplemented',
  'internal',
  'unavailable',
  'data_loss',
  'unauthenticated',
]);

/**
 * What the body of an HTTP answer says, where it is our server's own: `{"error":{"code","message"}}`. Undefined for any
 * other, which comes from a proxy or a deploy in between and says nothing about the user.
 */
export function readRefusal(body: string): { code: string; message: string } | undefined {
  try {
    const { code, message } = (JSON.parse(body) as { error: { code: unknown; message: unknown } }).error;
    if (typeof code !== 'string' || typeof message !== 'string' || !codes.has(code)) return undefined;
    return { code, message };
  } catch {
    return undefined;
  }
}
