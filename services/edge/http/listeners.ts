import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  createServer as createH2Server,
  createSecureServer,
  type Http2SecureServer,
  type Http2Server,
} from 'node:http2';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Server as NetServer, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Logger, MeshError, PortInUseError } from '@chatmesh/mesh';
import { cors as connectCors } from '@connectrpc/connect';
import type { EdgeConfig } from '../config.js';
import type { RpcMetrics } from '../metrics.js';
import { needsToken, PUBLIC_SERVICES, type RpcDeps, routes } from '../rpc.js';
import { type Request, serveCalls, terminate } from './calls.js';
import { ConnectionLimit } from './connection-limit.js';
import { Discovery } from './discovery.js';
import { HalfOpenStreams } from './half-open-streams.js';
import { endAnswered, watchConnection } from './http2-connection.js';
import { ignoreUpgrade, wantsWebSocket } from './ignored-upgrade.js';
import { page } from './page.js';
import type { Patience } from './patience.js';
import { isCall, type Response, refuse, refuseCall } from './refusals.js';
import { pathOf, type WebSocketEndpoint } from './websocket.js';

/** Of one request, names and values together; a token has at most half of it. */
const MAX_HEADER_BYTES = 16 * 1024;
/** Open at once on one HTTP/2 connection, some 20 KB each; RFC 9113 asks for no fewer than 100. */
const MAX_STREAMS = 256;
/** How often Node looks for requests that are late, milliseconds. */
const CHECK_EVERY_MS = 2_500;
/** How long an HTTP/2 client may go on sending when it has its answer, milliseconds. */
const AFTER_ANSWER_MS = 1_000;
/**
 * After so much silence the kernel asks whether the peer is still there (ten times, every second), milliseconds. Sockets that are pinged every
 * 25 s never come to that.
 */
const KEEP_ALIVE_MS = 30_000;
const CALL_PATH = /^\/[\w.]+\/\w+$/;
const STATUS_TEXTS: Readonly<Record<string, string>> = {
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
};

export interface ListenersDeps extends RpcDeps {
  readonly websocket: WebSocketEndpoint;
  readonly metrics: RpcMetrics;
  readonly patience: Patience;
  /** Whether clients can be served. */
  readonly ready: () => boolean;
  readonly logger: Logger;
}

/** The edge's two ports: HTTP/1.1 with WebSockets and the page, and HTTP/2. Both carry the public services. */
export class Listeners {
  readonly #config: EdgeConfig;
  readonly #websocket: WebSocketEndpoint;
  readonly #http1: Server;
  readonly #http2: Http2Server | Http2SecureServer;
  readonly #limit: ConnectionLimit;
  readonly #halfOpen: HalfOpenStreams;
  readonly #discovery: Discovery;
  /** Connections that Node was made to begin anew: they have been counted. */
  readonly #begunAnew = new WeakSet<Duplex>();
  /** The last answer of an HTTP/1.1 connection. */
  readonly #lastAnswer = new WeakMap<Duplex, Response>();

  constructor(config: EdgeConfig, deps: ListenersDeps) {
    const { patience, logger, metrics } = deps;
    this.#config = config;
    this.#websocket = deps.websocket;
    this.#limit = new ConnectionLimit(config.maxConnectionsPerAddress);
    this.#halfOpen = new HalfOpenStreams({ patience, logger });
    this.#discovery = new Discovery(deps.ready, PUBLIC_SERVICES);
    const calls = serveCalls({
      routes: (router) => {
        routes(router, deps);
        this.#discovery.routes(router);
      },
      interceptor: metrics.interceptor,
      needsToken,
      admit: (token) => deps.admission.admit(token),
      requestMs: patience.requestMs,
      onRefused: metrics.refused,
      onStream: (response) => {
        // From now on not silence ends it, but what is not acknowledged.
        response.socket?.setTimeout(0);
        this.#halfOpen.watch(response);
      },
      logger,
    });
    const serve = (request: Request, response: Response) => {
      if (request.httpVersionMajor === 1) this.#lastAnswer.set(request.socket, response);
      try {
        if (!allowOrigins(request, response) && !calls(request, response)) fallback(request, response);
      } catch (error) {
        // Whatever a request has, it ends no more than itself.
        logger.error({ err: error }, 'a request could not be answered');
        terminate(request);
      }
    };
    const tls = tlsOf(config);
    const sockets = { keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS, noDelay: true };
    const checkEveryMs = Math.min(CHECK_EVERY_MS, patience.headersMs);
    const limits = {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: patience.headersMs,
      // Behind the time-out of a call, which is answered in the call's own protocol.
      requestTimeout: patience.requestMs + checkEveryMs,
      keepAliveTimeout: patience.idleMs,
      connectionsCheckingInterval: checkEveryMs,
    };
    const handshake = { handshakeTimeout: patience.headersMs };
    this.#http1 = tls
      ? createTlsServer({ ...limits, ...sockets, ...handshake, ...tls }, serve)
      : createServer({ ...limits, ...sockets }, serve);
    const settings = { maxConcurrentStreams: MAX_STREAMS, maxHeaderListSize: MAX_HEADER_BYTES };
    this.#http2 = tls
      ? createSecureServer({ ...sockets, ...handshake, ...tls, settings }, serve)
      : createH2Server({ ...sockets, settings }, serve);
    // With TLS the second port speaks HTTP/1.1 as well.
    if (tls) Object.assign(this.#http2, limits);
    this.#http1.timeout = patience.idleMs;
    this.#http1.on('upgrade', (request, socket, head) => this.#upgrade(request, socket, head));
    for (const server of [this.#http1, this.#http2]) {
      server.on('connection', (socket: Socket) => this.#begunAnew.has(socket) || this.#limit.admit(socket));
      server.on('clientError', badRequest);
    }
    this.#http2.on('sessionError', () => {});
    this.#http2.on('session', (session) => {
      session.on('error', () => {});
      watchConnection(session, patience);
      endAnswered(session, AFTER_ANSWER_MS);
    });
  }

  get port(): number {
    return (this.#http1.address() as AddressInfo).port;
  }

  get h2Port(): number {
    return (this.#http2.address() as AddressInfo).port;
  }

  /** Connections that are open, of every kind. */
  async connections(): Promise<number> {
    const counts = [this.#http1, this.#http2].map(
      (server) => new Promise<number>((resolve) => server.getConnections((_error, count) => resolve(count ?? 0))),
    );
    const [one = 0, two = 0] = await Promise.all(counts);
    return one + two;
  }

  /** Connections that were refused because their address had too many. */
  get refusedConnections(): number {
    return this.#limit.refused;
  }

  /** Binds both ports. @throws PortInUseError naming variable and port. */
  async listen(): Promise<void> {
    await bind(this.#http1, this.#config.host, this.#config.port, 'EDGE_PORT');
    await bind(this.#http2, this.#config.host, this.#config.h2Port, 'EDGE_H2_PORT');
  }

  /** Stops taking connections and ends those that are left. */
  async close(): Promise<void> {
    const closed = [this.#http1, this.#http2].map(
      (server) => new Promise<void>((resolve) => server.close(() => resolve())),
    );
    this.#http1.closeAllConnections();
    this.#halfOpen.close();
    this.#discovery.close();
    await Promise.race([Promise.all(closed), new Promise((resolve) => setTimeout(resolve, 500).unref())]);
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const last = this.#lastAnswer.get(socket);
    if (last && !last.closed) {
      // What was asked before is answered before.
      const onError = () => socket.destroy();
      socket.on('error', onError);
      last.once('close', () => {
        socket.removeListener('error', onError);
        if (!socket.destroyed) this.#upgrade(request, socket, head);
      });
    } else if (wantsWebSocket(request)) {
      this.#websocket.upgrade(request, socket, head);
    } else {
      this.#begunAnew.add(socket);
      ignoreUpgrade(this.#http1, 'encrypted' in socket ? 'secureConnection' : 'connection', request, socket, head);
    }
  }
}

/** Any page may call with a token; there are no cookies that could be abused. True when the request was a preflight. */
function allowOrigins(request: Request, response: Response): boolean {
  if (request.headers.origin === undefined) return false;
  response.setHeader('access-control-allow-origin', '*');
  response.setHeader('access-control-expose-headers', connectCors.exposedHeaders.join(', '));
  if (request.method !== 'OPTIONS') return false;
  response.setHeader('access-control-allow-methods', connectCors.allowedMethods.join(', '));
  response.setHeader('access-control-allow-headers', [...connectCors.allowedHeaders, 'authorization'].join(', '));
  response.setHeader('access-control-max-age', '7200');
  response.statusCode = 204;
  response.end();
  return true;
}

/** What is for no method: the page, the WebSocket's path without an upgrade, calls that nobody answers, and nothing else. */
function fallback(request: Request, response: Response): void {
  const path = pathOf(request);
  const contentType = request.headers['content-type'];
  if (request.method === 'POST' && isCall(contentType) && CALL_PATH.test(path)) {
    // In Connect's own protocol a method that is not there is 404, as any path.
    refuseCall(response, contentType, new MeshError('unimplemented', 'no such service or method'), 404);
    return;
  }
  if (path === '/connect') {
    refuse(response, 426, new MeshError('failed_precondition', 'this is a WebSocket: upgrade the connection'));
    return;
  }
  const file = request.method === 'GET' || request.method === 'HEAD' ? page(path) : undefined;
  if (!file) {
    refuse(response, 404, new MeshError('not_found', 'no such path'));
    return;
  }
  for (const [name, value] of Object.entries(file.headers)) response.setHeader(name, value);
  response.statusCode = 200;
  (response as ServerResponse).end(request.method === 'HEAD' ? undefined : file.body);
}

/**
 * What is no HTTP, or not in time. A client that does not end its side must not keep the socket, and one that has not finished its TLS
 * handshake cannot be answered.
 */
function badRequest({ code = '' }: Error & { code?: string }, socket: Duplex): void {
  const understood = code.startsWith('HPE_') || code === 'ERR_HTTP_REQUEST_TIMEOUT';
  const status = STATUS_TEXTS[code] ?? '400 Bad Request';
  if (socket.writable && understood)
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\n\r\n`, () => socket.destroy());
  else socket.destroy();
}

function tlsOf({ tlsCert, tlsKey }: EdgeConfig): { cert: Buffer; key: Buffer; allowHTTP1: boolean } | undefined {
  if (tlsCert === undefined && tlsKey === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined)
    throw new MeshError('failed_precondition', 'EDGE_TLS_CERT and EDGE_TLS_KEY must be set together');
  const read = (variable: string, file: string) => {
    try {
      return readFileSync(file);
    } catch (cause) {
      throw new MeshError('failed_precondition', `${variable}: the file ${file} cannot be read`, { cause });
    }
  };
  return { cert: read('EDGE_TLS_CERT', tlsCert), key: read('EDGE_TLS_KEY', tlsKey), allowHTTP1: true };
}

function bind(server: NetServer, host: string, port: number, variable: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(error.code === 'EADDRINUSE' ? new PortInUseError(variable, port) : error),
    );
    server.listen({ host, port, backlog: 4096 }, () => resolve());
  });
}
