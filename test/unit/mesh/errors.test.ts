import {
  connectCode,
  type ErrorKind,
  grpcCode,
  httpStatus,
  kindOfGrpcCode,
  MeshError,
  toMeshError,
} from '@chatmesh/mesh';
import { Code } from '@connectrpc/connect';
import { Metadata, status } from '@grpc/grpc-js';
import { describe, expect, test } from '@jest/globals';

/** Written out once more, so that the table is compared with something; the compiler sees to it that none is missing. */
const NUMBERS: Record<ErrorKind, number> = {
  cancelled: 1,
  invalid_argument: 3,
  deadline_exceeded: 4,
  not_found: 5,
  already_exists: 6,
  permission_denied: 7,
  resource_exhausted: 8,
  failed_precondition: 9,
  aborted: 10,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
};
const KINDS = Object.keys(NUMBERS) as ErrorKind[];

describe('the table of errors', () => {
  test('every kind survives the way through its gRPC code, and no two share one', () => {
    expect(KINDS.map(grpcCode)).toEqual(Object.values(NUMBERS));
    expect(KINDS.map((kind) => kindOfGrpcCode(grpcCode(kind)))).toEqual(KINDS);
  });

  test('the numbers are those of the gRPC and Connect libraries', () => {
    for (const kind of KINDS) {
      expect(status[grpcCode(kind)]).toBe(kind.toUpperCase());
      const connectName = kind === 'cancelled' ? 'canceled' : kind;
      expect(Code[connectCode(kind)]?.toLowerCase()).toBe(connectName.replaceAll('_', ''));
    }
  });

  test('HTTP statuses tell the client what it can do about it', () => {
    expect(
      ['unauthenticated', 'permission_denied', 'resource_exhausted', 'unavailable'].map((k) => httpStatus(k as never)),
    ).toEqual([401, 403, 429, 503]);
  });

  test('a code that the mesh does not use is internal', () => {
    expect([2, 11, 15, 99].map(kindOfGrpcCode)).toEqual(['internal', 'internal', 'internal', 'internal']);
  });
});

describe('a thrown value as a MeshError', () => {
  test('a MeshError stays the same object', () => {
    const error = new MeshError('aborted', 'elsewhere');
    expect(toMeshError(error)).toBe(error);
  });

  test('the text of an unknown error stays in the cause', () => {
    const cause = new Error('password=hunter2');
    expect(toMeshError(cause)).toMatchObject({ kind: 'internal', message: 'internal error', cause });
    expect(toMeshError('text')).toMatchObject({ kind: 'internal', message: 'internal error', cause: 'text' });
    expect(toMeshError(undefined).kind).toBe('internal');
  });

  test('abort and timeout keep their meaning', () => {
    expect(toMeshError(AbortSignal.abort().reason).kind).toBe('cancelled');
    expect(toMeshError(new DOMException('late', 'TimeoutError')).kind).toBe('deadline_exceeded');
  });

  test('a gRPC status keeps code, message and when to try again', () => {
    const metadata = new Metadata();
    metadata.set('retry-after-ms', '250');
    const failure = Object.assign(new Error('8 RESOURCE_EXHAUSTED: slow down'), {
      code: 8,
      details: 'slow down',
      metadata,
    });
    expect(toMeshError(failure)).toMatchObject({ kind: 'resource_exhausted', message: 'slow down', retryAfterMs: 250 });
  });

  test("a system error with a textual code is not taken for gRPC's", () => {
    expect(toMeshError(Object.assign(new Error('no'), { code: 'ENOENT' })).kind).toBe('internal');
  });
});
