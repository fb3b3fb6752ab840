import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { parseArgs } from 'node:util';
import { type Database, open } from 'lmdb';
import { type WebSocket, WebSocketServer } from 'ws';

/**
 * What the mesh is measured against: the least that can carry this protocol's frames durably, in one Node process.
 *
 * A message is written to LMDB, one commit for all messages of an event-loop turn; when that commit is on the disk the
 * sender gets `sent` and the recipient's sockets get the message. A recipient who is offline gets the stored messages
 * when it connects. `delivered` is passed on to the sender and never stored; with --no-receipts it is dropped unread.
 * Nothing else is here: no tokens (the bearer is the user's id), no checks, no repeats, no retries, no acks.
 *
 * Prints `{"port":N}` when it accepts connections. Usage: baseline.js --data DIR [--no-receipts]
 */

/** The fields of a client's frames that are looked at. */
interface ClientFrame {
  content?: string;
  sender_id: string;
  receiver_id: string;
  client_message_id: string;
  server_message_id?: string;
  server_message_ids?: string[];
  status?: string;
}

/** One connected device. */
interface Connection {
  socket: WebSocket;
  tcp: Socket;
}

/** One user, kept from its first appearance on. */
interface User {
  /** The id's 16 bytes: the first part of the keys of the user's messages. */
  key: Buffer;
  connections: Set<Connection>;
  /** How many messages were stored for the user: the second part of the next key. */
  stored: number;
  /** Where the messages begin that no connection has been sent. */
  unsentFrom: number;
}

/** A message between its arrival and its commit. */
interface Pending {
  from: Connection;
  to: User;
  clientMessageId: string;
  serverMessageId: string;
  number: number;
  message: Buffer;
}

const TEXT_FRAME = { binary: false };

/** Frames for any number of connections, written with one system call each. */
class Burst {
  readonly #corked = new Set<Socket>();

  send({ socket, tcp }: Connection, data: Buffer | string): void {
    if (!this.#corked.has(tcp)) {
      this.#corked.add(tcp);
      tcp.cork();
    }
    socket.send(data, TEXT_FRAME);
  }

  end(): void {
    for (const tcp of this.#corked) tcp.uncork();
  }
}

class Baseline {
  readonly #users = new Map<string, User>();
  /** Who waits for `delivered`, by server_message_id. */
  readonly #awaited = new Map<string, { sender: User; clientMessageId: string }>();
  readonly #messages: Database<Buffer, Buffer>;
  readonly #receipts: boolean;
  #turn: Pending[] = [];
  #now = '';

  constructor(directory: string, options: { receipts: boolean }) {
    this.#messages = open({ path: directory, encoding: 'binary', keyEncoding: 'binary', overlappingSync: true });
    this.#receipts = options.receipts;
  }

  /** Takes a new socket: what was stored while the user was away goes first. */
  connect(userId: string, socket: WebSocket, tcp: Socket): void {
    const user = this.#user(userId);
    const connection = { socket, tcp };
    tcp.cork();
    if (user.connections.size === 0) {
      const range = { start: messageKey(user, user.unsentFrom), end: messageKey(user, user.stored) };
      // What is not committed yet is left to #commit: it finds the connection.
      for (const { value } of this.#messages.getRange(range)) {
        socket.send(value, TEXT_FRAME);
        user.unsentFrom++;
      }
    }
    socket.send('{"caught_up":true}');
    tcp.uncork();
    user.connections.add(connection);
    socket.on('message', (data: Buffer) => this.#receive(user, connection, data));
    socket.on('close', () => user.connections.delete(connection));
    socket.on('error', () => socket.terminate());
  }

  close(): Promise<void> {
    return this.#messages.close();
  }

  #user(userId: string): User {
    let user = this.#users.get(userId);
    if (!user) {
      const key = Buffer.from(userId.replaceAll('-', ''), 'hex');
      user = { key, connections: new Set(), stored: 0, unsentFrom: 0 };
      this.#users.set(userId, user);
    }
    return user;
  }

  #receive(user: User, connection: Connection, data: Buffer): void {
    const frame = JSON.parse(data.toString()) as ClientFrame;
    if (frame.content !== undefined) this.#accept(user, connection, frame);
    else if (frame.status !== undefined && this.#receipts) this.#forwardReceipts(frame);
  }

  #accept(sender: User, from: Connection, frame: ClientFrame): void {
    if (this.#turn.length === 0) {
      this.#now = new Date().toISOString();
      setImmediate(() => this.#commit());
    }
    const to = this.#user(frame.receiver_id);
    const serverMessageId = randomUUID();
    const message = Buffer.from(
      `{"sender_id":"${frame.sender_id}","content":${JSON.stringify(frame.content)},` +
        `"timestamp":"${this.#now}","server_message_id":"${serverMessageId}"}`,
    );
    if (this.#receipts) this.#awaited.set(serverMessageId, { sender, clientMessageId: frame.client_message_id });
    const clientMessageId = frame.client_message_id;
    this.#turn.push({ from, to, clientMessageId, serverMessageId, number: to.stored++, message });
  }

  /** Commits what the turn has gathered; once it is on the disk, answers and forwards. */
  async #commit(): Promise<void> {
    const group = this.#turn;
    const timestamp = this.#now;
    this.#turn = [];
    // A put that fails ends the process: nobody catches its promise.
    for (const { to, number, message } of group) void this.#messages.put(messageKey(to, number), message);
    await this.#messages.flushed;
    const burst = new Burst();
    for (const { from, to, clientMessageId, serverMessageId, number, message } of group) {
      burst.send(
        from,
        `{"status":"sent","timestamp":"${timestamp}","client_message_id":"${clientMessageId}",` +
          `"server_message_id":"${serverMessageId}"}`,
      );
      // Below unsentFrom: a connection that opened during the flush has read the message from the store.
      if (to.connections.size === 0 || number < to.unsentFrom) continue;
      to.unsentFrom = number + 1;
      for (const connection of to.connections) burst.send(connection, message);
    }
    burst.end();
  }

  #forwardReceipts(frame: ClientFrame): void {
    const timestamp = new Date().toISOString();
    const burst = new Burst();
    for (const id of frame.server_message_ids ?? [frame.server_message_id ?? '']) {
      const awaited = this.#awaited.get(id);
      if (!awaited) continue;
      this.#awaited.delete(id);
      const receipt =
        `{"status":"${frame.status}","timestamp":"${timestamp}","server_message_id":"${id}",` +
        `"client_message_id":"${awaited.clientMessageId}","event_id":"${randomUUID()}"}`;
      for (const connection of awaited.sender.connections) burst.send(connection, receipt);
    }
    burst.end();
  }
}

/** 16 bytes of the user's id and the message's number among the user's messages. */
function messageKey(user: User, number: number): Buffer {
  const key = Buffer.allocUnsafe(20);
  user.key.copy(key);
  key.writeUInt32BE(number, 16);
  return key;
}

const { values } = parseArgs({
  options: { data: { type: 'string' }, 'no-receipts': { type: 'boolean', default: false } },
});
if (!values.data) throw new Error('--data DIR is missing');

const baseline = new Baseline(values.data, { receipts: !values['no-receipts'] });
const server = createServer();
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on('connection', (socket, request) => {
  const userId = /^Bearer ([^/\s]+)/.exec(request.headers.authorization ?? '')?.[1];
  if (userId) baseline.connect(userId, socket, request.socket);
  else socket.close(1008);
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
  console.log(JSON.stringify({ port: (server.address() as AddressInfo).port }));
});
process.once('SIGTERM', () => void baseline.close().finally(() => process.exit(0)));
