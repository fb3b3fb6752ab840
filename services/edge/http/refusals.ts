import type { ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';
import { grpcCode, httpStatus, type MeshError, RETRY_AFTER_METADATA } from '@chatmesh/mesh';
import { errorBody } from './websocket.js';

export type Response = ServerResponse | Http2ServerResponse;

const GRPC = /^application\/grpc(?:-web(?:-text)?)?(?:\+[\w.-]+)?(?:;|$)/i;
const CONNECT_STREAM = /^application\/connect\+(?:proto|json)(?:;|$)/i;
const CONNECT_UNARY = /^application\/(?:proto|json)(?:;|$)/i;
/** What marks the last envelope of a stream in Connect's own protocol. */
const END_OF_STREAM = 0b10;

/** Answers a request that is no call. */
export function refuse(response: Response, status: number, error: MeshError): void {
  response.statusCode = status;
  response.setHeader('content-type', 'application/json');
  // HTTP/2 has no upgrades, and no header for them.
  if (status === 426 && !('stream' in response)) response.setHeader('upgrade', 'websocket');
  (response as ServerResponse).end(errorBody(error));
}

/** Whether a content type is that of a call, in one of the three protocols. JSON may be anything else as well. */
export function isCall(contentType: string | undefined): boolean {
  return contentType !== undefined && [GRPC, CONNECT_STREAM, CONNECT_UNARY].some((type) => type.test(contentType));
}

/**
 * Answers a call with an error in its own protocol, before anything of its body has been looked at.
 *
 * @param status of a unary call of Connect's own protocol, where it is not the usual one of the error.
 */
export function refuseCall(
  response: Response,
  contentType: string | undefined,
  error: MeshError,
  status = httpStatus(error.kind),
): void {
  const { kind, message, retryAfterMs } = error;
  if (retryAfterMs !== undefined) response.setHeader(RETRY_AFTER_METADATA, String(retryAfterMs));
  const plain = response as ServerResponse;
  if (contentType !== undefined && GRPC.test(contentType)) {
    // A status without a body stands in the headers, which end the stream; with writeHead() they would not.
    response.setHeader('content-type', contentType);
    response.setHeader('grpc-status', String(grpcCode(kind)));
    response.setHeader('grpc-message', encodeURIComponent(message));
    response.statusCode = 200;
    plain.end();
    return;
  }
  // The one name that Connect spells in another way.
  const json = Buffer.from(JSON.stringify({ code: kind === 'cancelled' ? 'canceled' : kind, message }));
  if (contentType !== undefined && CONNECT_STREAM.test(contentType)) {
    const end = Buffer.concat([Buffer.from('{"error":'), json, Buffer.from('}')]);
    const envelope = Buffer.alloc(5);
    envelope.writeUInt8(END_OF_STREAM);
    envelope.writeUInt32BE(end.length, 1);
    response.setHeader('content-type', contentType);
    response.statusCode = 200;
    plain.end(Buffer.concat([envelope, end]));
    return;
  }
  response.setHeader('content-type', 'application/json');
  response.setHeader('content-length', String(json.length));
  response.statusCode = status;
  plain.end(json);
}
