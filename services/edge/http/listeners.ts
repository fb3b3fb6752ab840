import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import {
  createServer as createH2Server,
  createSecureServer,
  type Http2SecureServer,
  type Http2Server,
  type Http2ServerRequest,
  type Http2ServerResponse,
} from 'node:http2';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Server as NetServer } from 'node:net';
import { MeshError, PortInUseError } from '@chatmesh/mesh';
import { cors as connectCors, type Interceptor } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import type { EdgeConfig } from '../config.js';
import { type RpcDeps, routes } from '../rpc.js';
import { page } from './page.js';
import { errorBody, pathOf, type WebSocketEndpoint } from './websocket.js';

/** Largest unary request; a sealed group send is the largest frame. */
const MAX_MESSAGE_BYTES = 512 * 1024;
const HEADERS_TIMEOUT_MS = 10_000;

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;

/** The edge's two ports: HTTP/1.1 with WebSockets and the page, and HTTP/2. Both carry the public services. */
export class Listeners {
  readonly #config: EdgeConfig;
  readonly #http1: Server;
  readonly #http2: Http2Server | Http2SecureServer;

  constructor(config: EdgeConfig, deps: RpcDeps & { websocket: WebSocketEndpoint; interceptor: Interceptor }) {
    this.#config = config;
    const tls = tlsOf(config);
    const handler = connectNodeAdapter({
      routes: (router) => routes(router, deps),
      fallback: (request, response) => fallback(request, response as Response),
      readMaxBytes: MAX_MESSAGE_BYTES,
      interceptors: [deps.interceptor],
    });
    const serve = (request: Request, response: Response) => {
      if (allowOrigins(request, response)) return;
      handler(request, response);
    };
    const limits = { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: 0, keepAliveTimeout: 60_000 };
    this.#http1 = tls ? createTlsServer({ ...limits, ...tls }, serve) : createServer(limits, serve);
    this.#http1.on('upgrade', (request, socket, head) => deps.websocket.upgrade(request, socket, head));
    this.#http1.on('clientError', (_error, socket) => {
      if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
      else socket.destroy();
    });
    this.#http2 = tls ? createSecureServer(tls, serve) : createH2Server(serve);
    this.#http2.on('sessionError', () => {});
    this.#http2.on('session', (session) => session.on('error', () => {}));
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
    await Promise.race([Promise.all(closed), new Promise((resolve) => setTimeout(resolve, 500).unref())]);
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

/** What is no RPC: the page, the WebSocket's path without an upgrade, and nothing else. */
function fallback(request: Request, response: Response): void {
  const path = pathOf(request);
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

function refuse(response: Response, status: number, error: MeshError): void {
  response.statusCode = status;
  response.setHeader('content-type', 'application/json');
  if (status === 426) response.setHeader('upgrade', 'websocket');
  (response as ServerResponse).end(errorBody(error));
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
