import { randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { type TestUser, until } from './mesh.js';

/** A frame as it came over the wire. */
// biome-ignore lint/suspicious/noExplicitAny: tests look into frames of every shape.
export type Frame = any;

/** A bare client of the WebSocket that shows every frame and does nothing by itself. */
export class WireClient {
  readonly user: TestUser;
  readonly frames: Frame[] = [];
  readonly socket: WebSocket;
  closeCode: number | undefined;
  closeReason: string | undefined;

  private constructor(user: TestUser, socket: WebSocket) {
    this.user = user;
    this.socket = socket;
    socket.on('message', (data) => this.frames.push(JSON.parse(String(data))));
    socket.on('close', (code, reason) => {
      this.closeCode = code;
      this.closeReason = String(reason);
    });
    socket.on('error', () => {});
  }

  /** Connects and waits for the upgrade. @throws Error with `status` and `body` when it is refused. */
  static async connect(
    url: string,
    user: TestUser,
    options: { token?: string; subprotocol?: boolean } = {},
  ): Promise<WireClient> {
    const token = options.token ?? user.token;
    const socket = options.subprotocol
      ? new WebSocket(url, ['chatmesh.v1', `bearer.${token}`])
      : new WebSocket(url, { headers: { authorization: `Bearer ${token}` } });
    const client = new WireClient(user, socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
      socket.once('unexpected-response', (_request, response) => {
        let body = '';
        response.setEncoding('utf8').on('data', (text: string) => {
          body += text;
        });
        response.on('end', () =>
          reject(
            Object.assign(new Error(`refused with ${response.statusCode}: ${body}`), {
              status: response.statusCode,
              body,
            }),
          ),
        );
      });
    });
    return client;
  }

  send(frame: unknown): void {
    this.socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  /** Sends a message; the id can be given to repeat one. */
  message(receiver: TestUser | string, content: string, clientMessageId: string = randomUUID()): string {
    this.send({
      sender_id: this.user.userId,
      receiver_id: typeof receiver === 'string' ? receiver : receiver.userId,
      content,
      timestamp: new Date().toISOString(),
      client_message_id: clientMessageId,
    });
    return clientMessageId;
  }

  confirm(status: 'delivered' | 'read', ...ids: string[]): void {
    this.send({ status, server_message_ids: ids });
  }

  /** The first frame that fits, waiting for it. */
  async frame(fits: (frame: Frame) => boolean, what = 'a frame', timeoutMs = 30_000): Promise<Frame> {
    await until(() => this.frames.some(fits), {
      timeoutMs,
      what: () => `${what}; there are: ${JSON.stringify(this.frames.slice(-20))}, close ${this.closeCode}`,
    });
    return this.frames.find(fits);
  }

  /** The acceptance or refusal of a message. */
  answer(clientMessageId: string): Promise<Frame> {
    return this.frame(
      (f) => f.client_message_id === clientMessageId && (f.status === 'sent' || f.error),
      `the answer to ${clientMessageId}`,
    );
  }

  /** Messages that have come, in order. */
  get messages(): Frame[] {
    return this.frames.filter((f) => f.content !== undefined || f.sealed !== undefined);
  }

  async closed(timeoutMs = 30_000): Promise<number> {
    await until(() => this.closeCode !== undefined, { timeoutMs, what: 'the close' });
    return this.closeCode as number;
  }

  async close(): Promise<void> {
    this.socket.close();
    await this.closed();
  }
}
