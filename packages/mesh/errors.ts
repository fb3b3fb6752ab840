/** What went wrong, in the words of gRPC's codes. */
export type ErrorKind =
  | 'cancelled'
  | 'invalid_argument'
  | 'deadline_exceeded'
  | 'not_found'
  | 'already_exists'
  | 'permission_denied'
  | 'resource_exhausted'
  | 'failed_precondition'
  | 'aborted'
  | 'unimplemented'
  | 'internal'
  | 'unavailable'
  | 'unauthenticated';

/** The only table from kind to codes: gRPC's number (Connect uses the same) and the HTTP status. */
const CODES: Record<ErrorKind, { grpc: number; http: number }> = {
  cancelled: { grpc: 1, http: 499 },
  invalid_argument: { grpc: 3, http: 400 },
  deadline_exceeded: { grpc: 4, http: 504 },
  not_found: { grpc: 5, http: 404 },
  already_exists: { grpc: 6, http: 409 },
  permission_denied: { grpc: 7, http: 403 },
  resource_exhausted: { grpc: 8, http: 429 },
  failed_precondition: { grpc: 9, http: 400 },
  aborted: { grpc: 10, http: 409 },
  unimplemented: { grpc: 12, http: 501 },
  internal: { grpc: 13, http: 500 },
  unavailable: { grpc: 14, http: 503 },
  unauthenticated: { grpc: 16, http: 401 },
};

const KINDS = new Map(Object.entries(CODES).map(([kind, { grpc }]) => [grpc, kind as ErrorKind]));

/** An error with a meaning that may cross a process: its message is for whoever called. */
export class MeshError extends Error {
  override readonly name = 'MeshError';
  readonly kind: ErrorKind;
  /** When to try again, in milliseconds, where the refusal knows. */
  readonly retryAfterMs: number | undefined;

  constructor(kind: ErrorKind, message: string, options: { cause?: unknown; retryAfterMs?: number } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.kind = kind;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** A port that another process has. */
export class PortInUseError extends MeshError {
  constructor(variable: string, port: number, cause?: unknown) {
    super('failed_precondition', `${variable}=${port} is in use by another process; set ${variable} to a free port`, {
      cause,
    });
  }
}

/** The trailing metadata that carries {@link MeshError.retryAfterMs}, as decimal text. */
export const RETRY_AFTER_METADATA = 'retry-after-ms';

/** gRPC's number of a kind. */
export function grpcCode(kind: ErrorKind): number {
  return CODES[kind].grpc;
}

/** Connect's code of a kind: the same numbers as gRPC's. */
export function connectCode(kind: ErrorKind): number {
  return CODES[kind].grpc;
}

/** The HTTP status of a kind. */
export function httpStatus(kind: ErrorKind): number {
  return CODES[kind].http;
}

/** The kind of a gRPC code; `internal` for codes that the mesh does not use. */
export function kindOfGrpcCode(code: number): ErrorKind {
  return KINDS.get(code) ?? 'internal';
}

/** Any thrown value as a MeshError: what is unknown becomes `internal`, with its text only in the cause. */
export function toMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  if (isGrpcStatus(error)) {
    const retryAfter = Number(error.metadata?.get(RETRY_AFTER_METADATA)[0]);
    return new MeshError(kindOfGrpcCode(error.code), error.details, {
      cause: error,
      ...(retryAfter > 0 && { retryAfterMs: retryAfter }),
    });
  }
  // By name: a DOMException is not an Error everywhere.
  const name = (error as Partial<Error> | null | undefined)?.name;
  if (name === 'AbortError') return new MeshError('cancelled', 'cancelled', { cause: error });
  if (name === 'TimeoutError') return new MeshError('deadline_exceeded', 'deadline exceeded', { cause: error });
  return new MeshError('internal', 'internal error', { cause: error });
}

/** A status of grpc-js, as a call's end or as the error of a unary call. */
interface GrpcStatus {
  readonly code: number;
  readonly details: string;
  readonly metadata?: { get(key: string): unknown[] };
}

function isGrpcStatus(error: unknown): error is GrpcStatus {
  const status = error as Partial<GrpcStatus> | undefined;
  return typeof status?.code === 'number' && typeof status.details === 'string';
}
