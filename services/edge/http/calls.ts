import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';
import type { DescMethod } from '@bufbuild/protobuf';
import { type Logger, MeshError, toMeshError } from '@chatmesh/mesh';
import {
  Code,
  ConnectError,
  type ConnectRouter,
  type ContextValues,
  createConnectRouter,
  createContextKey,
  createContextValues,
  type Interceptor,
} from '@connectrpc/connect';
import type { UniversalHandler } from '@connectrpc/connect/protocol';
import {
  compressionBrotli,
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from '@connectrpc/connect-node';
import type { VerifiedToken } from '../auth/token-verifier.js';
import { type Response, refuseCall } from './refusals.js';
import { pathOf } from './websocket.js';

export type Request = IncomingMessage | Http2ServerRequest;

/** Largest unary request; a sealed group send is the largest frame. */
const MAX_MESSAGE_BYTES = 512 * 1024;
const UNKNOWN: VerifiedToken = { userId: '', deviceId: '', expiresAtMs: 0, external: false };

/** Who makes a call, for methods that need a token. */
export const CALLER = createContextKey<VerifiedToken>(UNKNOWN);
/** Ends a call's connection, or its stream where the connection has several, whatever its client does. */
export const TERMINATE = createContextKey<() => void>(() => {});

export interface CallsOptions {
  readonly routes: (router: ConnectRouter) => void;
  readonly interceptor: Interceptor;
  /** Whether a method is for callers with a token only. */
  readonly needsToken: (method: DescMethod) => boolean;
  /** Judges a caller's token. @throws MeshError */
  readonly admit: (token: string) => Promise<VerifiedToken>;
  /** For a request to be whole, milliseconds. A stream of requests of a caller who is admitted takes as long as it takes. */
  readonly requestMs: number;
  /** Told of calls that no handler has seen. */
  readonly onRefused: (method: DescMethod, error: MeshError) => void;
  /** Told of each answer in many parts that begins over HTTP/1.1, which has no pings. */
  readonly onStream: (response: ServerResponse) => void;
  readonly logger: Logger;
}

/**
 * The public services over Connect, gRPC and gRPC-Web. A caller is judged before anything of the body is read; a body that is
 * not there in time is the caller's error.
 *
 * @returns what answers a call, and says false for a request that is for no method.
 */
export function serveCalls(options: CallsOptions): (request: Request, response: Response) => boolean {
  const router = createConnectRouter({
    acceptCompression: [compressionGzip, compressionBrotli],
    readMaxBytes: MAX_MESSAGE_BYTES,
    interceptors: [options.interceptor],
  });
  options.routes(router);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const handler = handlers.get(pathOf(request));
    if (!handler) return false;
    answer(handler, request, response, options).catch((error) => {
      // Whoever went away before the answer is no reason to say anything.
      if (ConnectError.from(error).code === Code.Aborted || hasGone(response)) return;
      options.logger.error({ err: error, method: handler.method.name }, 'a call could not be answered');
      terminate(request);
    });
    return true;
  };
}

async function answer(
  handler: UniversalHandler,
  request: Request,
  response: Response,
  options: CallsOptions,
): Promise<void> {
  const { method } = handler;
  const arrivedAtMs = performance.now();
  const values = createContextValues();
  values.set(TERMINATE, () => terminate(request));
  const contentType = request.headers['content-type'];
  const refused = (error: MeshError) => {
    options.onRefused(method, error);
    // The rest of the body is of no use; over HTTP/1.1 the next request is behind it.
    if (request.httpVersionMajor === 1) request.resume();
    refuseCall(response, contentType, error);
  };
  // Before the wait for the verdict: only so is it known when the client goes meanwhile.
  const universal = universalOf(request, response, values);
  if (!universal) {
    refused(new MeshError('invalid_argument', 'the request does not say for which host it is'));
    return;
  }
  const needsToken = options.needsToken(method);
  if (needsToken) {
    try {
      values.set(CALLER, await options.admit(bearerOf(request)));
    } catch (error) {
      if (!universal.signal.aborted) refused(toMeshError(error));
      return;
    }
  }
  const live = needsToken && method.methodKind === 'bidi_streaming';
  const body = live
    ? universal.body
    : inTime(universal.body as AsyncIterable<Uint8Array>, arrivedAtMs + options.requestMs);
  const answered = await handler({ ...universal, body });
  if (method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming') {
    answered.header?.set('cache-control', 'no-store');
    answered.header?.set('x-accel-buffering', 'no');
    if (request.httpVersionMajor === 1) options.onStream(response as ServerResponse);
  }
  // What is left of a body that came too late would be taken for the next request.
  if (request.httpVersionMajor === 1 && !request.complete) response.setHeader('connection', 'close');
  await universalResponseToNodeResponse(answered, response);
}

/** Undefined where a request names no host, or none that can be. */
function universalOf(request: Request, response: Response, values: ContextValues) {
  try {
    return universalRequestFromNodeRequest(request, response, undefined, values);
  } catch {
    return undefined;
  }
}

/** @throws MeshError `unauthenticated` where there is none. */
function bearerOf(request: Request): string {
  const token = /^Bearer ([^\s]+)$/i.exec(request.headers.authorization ?? '')?.[1];
  if (token === undefined) throw new MeshError('unauthenticated', 'a token is required: Authorization: Bearer <JWT>');
  return token;
}

/** The parts of a body. @throws ConnectError `deadline_exceeded` when the last of them is not there by then (`performance.now()`). */
async function* inTime(body: AsyncIterable<Uint8Array>, untilMs: number): AsyncGenerator<Uint8Array> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const expire = () => reject(new ConnectError('the request was not finished in time', Code.DeadlineExceeded));
    timer = setTimeout(expire, untilMs - performance.now()).unref();
  });
  late.catch(() => {});
  const parts = body[Symbol.asyncIterator]();
  try {
    for (;;) {
      const { done, value } = await Promise.race([parts.next(), late]);
      if (done) return;
      yield value;
    }
  } finally {
    clearTimeout(timer);
  }
}

function hasGone(response: Response): boolean {
  return 'stream' in response ? response.stream.destroyed : response.destroyed;
}

/** Ends a request's connection, or its stream where the connection has several. */
export function terminate(request: Request): void {
  if ('stream' in request) request.stream.close();
  else request.socket.destroy();
}
