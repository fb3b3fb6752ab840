import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import type { ClientFrame, ServerFrame } from '@chatmesh/sdk';
import { type WebSocket, WebSocketServer } from 'ws';

/** A frame that a client sent, and over which connection, counted from 1. */
export interface Heard {
  connection: number;
  frame: ClientFrame;
}

/**
 * The server's side of `/connect`, scripted by a test: a real WebSocket server that speaks the wire contract's frames
 * and decides nothing by itself, except that it can be told to accept every send.
 */
export class ScriptedServer {
  readonly heard: Heard[] = [];
  readonly tokens: string[] = [];
  readonly protocols: string[] = [];
  /** What each frame is answered with. */
  answer: (frame: ClientFrame, connection: number) => ServerFrame | undefined = () => undefined;
  /** An answer of its own instead of an upgrade: a code of the wire contract, or whatever a proxy says. */
  refuseWith: (request: IncomingMessage, token: string) => string | { status: number; body: string } | undefined = () =>
    undefined;
  /** False leaves upgrades without any answer. */
  answerUpgrades = true;
  /** Goes out with the answer to the upgrade. */
  greeting: ServerFrame[] = [];
  connections = 0;
  #socket: WebSocket | undefined;
  readonly #unanswered: Duplex[] = [];
  readonly #http = createServer();
  readonly #sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'chatmesh.v1' });

  static async start(): Promise<ScriptedServer> {
    const server = new ScriptedServer();
    server.#http.on('upgrade', (request, stream, head) => {
      if (!server.answerUpgrades) {
        server.#unanswered.push(stream);
        return;
      }
      const token = (request.headers['sec-websocket-protocol'] ?? '').split('bearer.')[1] ?? '';
      server.tokens.push(token);
      server.protocols.push(request.headers['sec-websocket-protocol'] ?? '');
      const refusal = request.url === '/connect' ? server.refuseWith(request, token) : 'not_found';
      if (refusal !== undefined) {
        const { status, body } =
          typeof refusal === 'object'
            ? refusal
            : { status: 400, body: JSON.stringify({ error: { code: refusal, message: `no: ${refusal}` } }) };
        stream.end(`HTTP/1.1 ${status} No\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`);
        return;
      }
      server.#sockets.handleUpgrade(request, stream, head, (socket) => server.#accept(socket));
    });
    await new Promise<void>((resolve) => server.#http.listen(0, '127.0.0.1', resolve));
    return server;
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#http.address() as AddressInfo).port}`;
  }

  /** To the newest connection. */
  push(...frames: ServerFrame[]): void {
    for (const frame of frames) this.#socket?.send(JSON.stringify(frame));
  }

  closeWith(code: number): void {
    this.#socket?.close(code);
  }

  /** As a path that has gone dead: the newest connection takes nothing any more. */
  stopReading(): void {
    this.#socket?.pause();
  }

  /** As a process that dies does it: no closing handshake. */
  cut(): void {
    this.#socket?.terminate();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#sockets.clients) client.terminate();
    this.#sockets.close();
    for (const stream of this.#unanswered) stream.destroy();
    await new Promise((resolve) => this.#http.close(resolve));
  }

  #accept(socket: WebSocket): void {
    this.connections += 1;
    const connection = this.connections;
    this.#socket = socket;
    this.push(...this.greeting);
    socket.on('message', (data) => {
      const frame = JSON.parse(data.toString()) as ClientFrame;
      this.heard.push({ connection, frame });
      const answer = this.answer(frame, connection);
      if (answer !== undefined) socket.send(JSON.stringify(answer));
    });
  }
}

/** A JWT in form; nobody verifies it here. */
export function fakeToken(userId: string, deviceId: string, note = ''): string {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  return `${part({ alg: 'none' })}.${part({ sub: userId, did: deviceId, note })}.x`;
}

/** Waits until a condition holds; fails after ten seconds. */
export async function until(condition: () => boolean, what = 'the condition'): Promise<void> {
  const deadlineMs = performance.now() + 30_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`${what} did not come true`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}
