/**
 * Why something was refused or given up: the gRPC code's name in lower case, as the server says it, or one of the
 * client's own: `closed` (this client was closed), `handler_failed` (an event handler threw).
 */
export type ErrorCode =
  | 'invalid_argument'
  | 'unauthenticated'
  | 'permission_denied'
  | 'not_found'
  | 'already_exists'
  | 'failed_precondition'
  | 'resource_exhausted'
  | 'unavailable'
  | 'aborted'
  | 'internal'
  | 'closed'
  | 'handler_failed'
  | (string & {});

/** Every error that the SDK rejects with or emits. */
export class ChatError extends Error {
  override readonly name = 'ChatError';

  /**
   * @param code see ErrorCode
   * @param message for a developer's eyes
   * @param retryAfterMs when the server would take another attempt, where it said so
   */
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly retryAfterMs?: number,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}
