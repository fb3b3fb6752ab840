import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { httpStatus, type Logger, MeshError, toMeshError } from '@chatmesh/mesh';
import { type RawData, type WebSocket, WebSocketServer } from 'ws';
import type { Admission } from '../auth/admission.js';
import type { VerifiedToken } from '../auth/token-verifier.js';
import { CLOSE } from '../domain/close-codes.js';
import { type ClientAction, clientMessageIdOf, parseFrame } from '../domain/frames.js';
import { acceptedJson, addEvent, CAUGHT_UP_JSON, errorJson, goingAwayJson, HEARTBEAT_JSON } from '../domain/json.js';
import type { PushedEvent } from '../domain/pushed-event.js';
import { TextFrames } from '../domain/text-frames.js';
import type { ClientSink, Session } from '../sessions/session.js';
import type { SessionTable } from '../sessions/session-table.js';

const ABSOLUTE = /^https?:\/\/[^/?#]*/i;
const PROTOCOL = 'chatmesh.v1';
/** Offered besides the protocol by a client that cannot see pings, as browsers cannot. */
const HEARTBEAT_PROTOCOL = 'chatmesh.v1.heartbeat';
const BEARER_PROTOCOL = 'bearer.';
const MAX_FRAME_BYTES = 64 * 1024;
const MAX_GROUP_FRAME_BYTES = 512 * 1024;
/** Upgrades whose token is being checked; more are told to come back. */
const MAX_PENDING_UPGRADES = 5_000;
const CLOSE_TIMEOUT_MS = 2_000;

/** `GET /connect`: upgrades verified clients and gives each a session. */
export class WebSocketEndpoint {
  readonly #server: WebSocketServer;
  readonly #admission: Admission;
  readonly #sessions: SessionTable;
  readonly #logger: Logger;
  /** How many upgrades were answered with each HTTP status; 101 is a connection. */
  readonly answers = new Map<number, number>();
  #pending = 0;

  constructor(options: { admission: Admission; sessions: SessionTable; logger: Logger }) {
    this.#admission = options.admission;
    this.#sessions = options.sessions;
    this.#logger = options.logger;
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: MAX_GROUP_FRAME_BYTES,
      handleProtocols: (offered) => (offered.has(PROTOCOL) ? PROTOCOL : false),
    });
  }

  /** Upgrades whose token is being checked. */
  get pending(): number {
    return this.#pending;
  }

  /** Handles an HTTP upgrade. Never throws: what is refused gets an HTTP answer. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const onError = () => socket.destroy();
    socket.on('error', onError);
    this.#admit(request).then(
      (identity) => {
        socket.removeListener('error', onError);
        if (socket.destroyed) return;
        this.#count(101);
        this.#server.handleUpgrade(request, socket, head, (client) => this.#begin(client, socket, identity, request));
      },
      (error) => {
        const refusal = toMeshError(error);
        this.#count(httpStatus(refusal.kind));
        refuseUpgrade(socket, refusal, request);
      },
    );
  }

  #count(status: number): void {
    this.answers.set(status, (this.answers.get(status) ?? 0) + 1);
  }

  async #admit(request: IncomingMessage): Promise<VerifiedToken> {
    if (pathOf(request) !== '/connect') throw new MeshError('not_found', 'no such path');
    const token = tokenOf(request);
    if (token === undefined)
      throw new MeshError(
        'unauthenticated',
        'a token is required: Authorization: Bearer <JWT>, or the subprotocol bearer.<JWT>',
      );
    if (this.#pending >= MAX_PENDING_UPGRADES)
      throw new MeshError('unavailable', 'too many connections at once, try again');
    this.#pending++;
    try {
      return await this.#admission.admitConnection(token, this.#sessions);
    } finally {
      this.#pending--;
    }
  }

  #begin(client: WebSocket, socket: Duplex, identity: VerifiedToken, request: IncomingMessage): void {
    const heartbeats = protocolsOf(request).includes(HEARTBEAT_PROTOCOL);
    const sink = new WebSocketSink(client, socket as Socket, identity.deviceId, heartbeats);
    const session = this.#sessions.open(identity, sink);
    // One listener function for all connections; what differs is found through the socket.
    const connection = { session, sink, sessions: this.#sessions };
    (client as ClientSocket)[CONNECTION] = connection;
    (socket as RawSocket)[CONNECTION] = connection;
    (socket as Socket).on('drain', onDrain);
    client.on('message', onMessage);
    client.on('pong', onPong);
    client.on('close', onClose);
    client.on('error', ignore);
    this.#logger.debug({ user: identity.userId, device: identity.deviceId }, 'connected');
  }
}

const CONNECTION = Symbol('connection');

interface Connection {
  readonly session: Session;
  readonly sink: WebSocketSink;
  readonly sessions: SessionTable;
}

interface ClientSocket extends WebSocket {
  [CONNECTION]: Connection;
}

interface RawSocket extends Socket {
  [CONNECTION]: Connection;
}

function onMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  const { session, sessions } = (this as ClientSocket)[CONNECTION];
  if (session.closed) return;
  sessions.heard(session);
  const text = isBinary ? '' : (data as Buffer).toString('utf8');
  let action: ClientAction;
  try {
    if (isBinary) throw new MeshError('invalid_argument', 'frames are JSON in text messages');
    action = parseFrame(text);
  } catch (error) {
    if ((data as Buffer).length > MAX_FRAME_BYTES) sessions.close(session, CLOSE.tooBig, 'the frame is too big');
    else sessions.refuse(session, toMeshError(error), clientMessageIdOf(text));
    return;
  }
  if (
    (data as Buffer).length > MAX_FRAME_BYTES &&
    !(action.kind === 'send' && action.sealed && action.groupId !== '')
  ) {
    sessions.close(session, CLOSE.tooBig, 'the frame is too big');
    return;
  }
  sessions.act(session, action);
}

function onPong(this: WebSocket): void {
  const { session, sessions } = (this as ClientSocket)[CONNECTION];
  sessions.heard(session);
}

/** The kernel has taken all that was written. */
function onDrain(this: Socket): void {
  (this as RawSocket)[CONNECTION].sink.flush();
}

function onClose(this: WebSocket): void {
  const { session, sessions } = (this as ClientSocket)[CONNECTION];
  sessions.ended(session);
}

/** ws reports protocol errors (a frame too big, bad UTF-8) and then closes with the right code. */
function ignore(): void {}

/**
 * Writes JSON frames; those of one turn of the event loop go to the kernel together. While it takes nothing they are
 * gathered on, for a thousand small writes that wait would take many times the memory of their bytes.
 */
class WebSocketSink implements ClientSink {
  readonly #client: WebSocket;
  readonly #socket: Socket;
  readonly #deviceId: string;
  readonly #heartbeats: boolean;
  /** Not written yet; undefined when there are none. */
  #turn: TextFrames | undefined;

  constructor(client: WebSocket, socket: Socket, deviceId: string, heartbeats: boolean) {
    this.#client = client;
    this.#socket = socket;
    this.#deviceId = deviceId;
    this.#heartbeats = heartbeats;
  }

  get bufferedBytes(): number {
    return this.#client.bufferedAmount + (this.#turn?.length ?? 0);
  }

  get receivedBytes(): number {
    const { bytesRead, bytesWritten, writableLength } = this.#socket;
    return writableLength === 0 ? bytesRead : bytesRead + bytesWritten - writableLength;
  }

  accepted(clientMessageId: string, serverMessageId: string, acceptedAtMs: number, deduplicated: boolean): void {
    this.#frames().add(acceptedJson(clientMessageId, serverMessageId, acceptedAtMs, deduplicated));
  }

  event(event: PushedEvent): void {
    addEvent(this.#frames(), event, this.#deviceId);
  }

  error(error: MeshError, clientMessageId: string): void {
    this.#frames().add(errorJson(error.kind, error.message, clientMessageId, error.retryAfterMs ?? 0));
  }

  caughtUp(): void {
    this.#frames().add(CAUGHT_UP_JSON);
  }

  goingAway(reconnectAfterMs: number): void {
    this.#frames().add(goingAwayJson(reconnectAfterMs));
  }

  ping(): void {
    if (this.#client.readyState !== this.#client.OPEN) return;
    this.#client.ping();
    if (this.#heartbeats) this.#frames().add(HEARTBEAT_JSON);
  }

  close(code: number, reason: string): void {
    this.#write();
    this.pause(false);
    this.#client.close(code, reason);
    // A client that does not answer the close must not keep its socket.
    setTimeout(() => this.#client.terminate(), CLOSE_TIMEOUT_MS).unref();
  }

  pause(paused: boolean): void {
    if (paused) this.#client.pause();
    else if (this.#client.isPaused) this.#client.resume();
  }

  #frames(): TextFrames {
    if (!this.#turn) {
      this.#turn = new TextFrames();
      setImmediate(() => this.flush());
    }
    return this.#turn;
  }

  /** Writes what there is, unless the kernel has not taken yet what was written before: then at 'drain'. */
  flush(): void {
    if (this.#socket.writableNeedDrain) return;
    this.#write();
    if (this.#socket.writableNeedDrain) return;
    const { session, sessions } = (this.#socket as RawSocket)[CONNECTION];
    sessions.taken(session);
  }

  /** Beside the library, which would write each frame in two pieces; it writes nothing else but pings, pongs and the close. */
  #write(): void {
    const frames = this.#turn;
    this.#turn = undefined;
    if (frames && this.#client.readyState === this.#client.OPEN) this.#socket.write(frames.finish());
  }
}

/** The token of an upgrade: the Authorization header, or the subprotocol that stands in for it in browsers. */
function tokenOf(request: IncomingMessage): string | undefined {
  const { authorization = '' } = request.headers;
  if (/^Bearer\b/i.test(authorization)) return /^Bearer +([^\s]+)$/i.exec(authorization)?.[1];
  // Another scheme is for a proxy on the way.
  return protocolsOf(request)
    .find((name) => name.startsWith(BEARER_PROTOCOL))
    ?.slice(BEARER_PROTOCOL.length);
}

function protocolsOf(request: IncomingMessage): string[] {
  return (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
}

/** The path without query, also of a target in absolute form (RFC 9112, section 3.2.2). */
export function pathOf(request: { url?: string | undefined }): string {
  const url = request.url ?? '/';
  const from = ABSOLUTE.exec(url)?.[0].length ?? 0;
  const query = url.indexOf('?', from);
  return url.slice(from, query < 0 ? undefined : query) || '/';
}

/** The body of an HTTP error. */
export function errorBody(error: MeshError): string {
  return JSON.stringify({ error: { code: error.kind, message: error.message } });
}

function refuseUpgrade(socket: Duplex, error: MeshError, request: IncomingMessage): void {
  if (socket.destroyed) return;
  // On an upgrade an exhausted limit is 429 and everything unavailable is 503, as for any HTTP request.
  const status = httpStatus(error.kind);
  const body = request.method === 'HEAD' ? '' : errorBody(error);
  socket.once('finish', () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_TEXTS[status] ?? 'Error'}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}

const STATUS_TEXTS: Record<number, string> = {
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  503: 'Service Unavailable',
};
