import { longestDelayMs } from './backoff.js';
import { Confirmations } from './confirmations.js';
import { Connection, type ConnectionStatus, type TokenSource, type Trace } from './connection.js';
import { Emitter } from './emitter.js';
import { ChatError } from './errors.js';
import type { ErrorFrame, MessageFrame, ServerFrame } from './frames.js';
import { Outbox, type Sent } from './outbox.js';
import { Seen } from './seen.js';
import { readToken } from './token.js';
import { nextTurn } from './turn.js';

/** A message that arrived. */
export interface Message {
  serverMessageId: string;
  senderId: string;
  /** Set on the copy of a message that this user sent from another device. */
  receiverId?: string;
  groupId?: string;
  /** Empty when `sealed` is set. */
  text: string;
  /** For this device's key to open: base64 of the ciphertext and of the sealed content key. */
  sealed?: { body: string; keyId: string; data: string };
  /** When the server accepted it, RFC 3339. Never decreases along one sender's messages. */
  timestamp: string;
}

/** What became of a message that this user sent. */
export interface Receipt {
  status: 'delivered' | 'read' | 'failed';
  serverMessageId: string;
  clientMessageId: string;
  /** RFC 3339. */
  timestamp: string;
  eventId: string;
  /** Why it failed, for example `expired`. */
  code?: string;
}

/** Something else that this device must know. */
export interface ChatEvent {
  eventId: string;
  kind: 'group_changed' | 'key_changed' | 'device_changed' | (string & {});
  userId?: string;
  deviceId?: string;
  groupId?: string;
}

/** What `on` takes. */
export interface ChatEvents {
  message: Message;
  receipt: Receipt;
  event: ChatEvent;
  /** Everything that waited when the connection opened has been handed over; once per connection. */
  caught_up: { connection: number };
  status: ConnectionStatus;
  /** A refusal that answers no send, or an error that a handler threw. */
  error: ChatError;
}

export interface ConnectOptions {
  /** The edge, for example `ws://localhost:8080`. */
  url: string;
  /** A JWT, or a function that gets one for each connection. Without a fresh one a refused token ends the client. */
  token: TokenSource;
  /** How many messages may wait for their answer, 10,000 unless said; more are refused with resource_exhausted. */
  maxOutbox?: number;
  /**
   * The longest wait between attempts to connect or to send, milliseconds, 30,000 unless said; the server's own wishes count
   * all the same. Clients of people should keep it: many of them come back at once after an outage.
   */
  maxRetryDelayMs?: number;
  /** False leaves messages, receipts and events unconfirmed: the server keeps them. */
  autoConfirm?: boolean;
  /** Sees every frame; for logs and for `@chatmesh/sdk/testing`. */
  onTrace?: (entry: Trace) => void;
}

export interface Outgoing {
  /** A user_id. */
  to: string;
  /** 1 to 1,000 code points. */
  text: string;
  /** A UUID; made here unless given. The same one is accepted once, however often it is sent. */
  clientMessageId?: string;
}

type Confirmable = 'message' | 'receipt' | 'event';
type State = 'handling' | 'delivered' | 'read';

/** At most 256 are unconfirmed on the server's side, and what is dropped here comes again. */
const maxHeld = 1024;
const maxCodePoints = 1000;
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * One device's session, kept alive over any number of connections. Made by `connect`.
 *
 * What arrives is shown once: handlers run, then it is confirmed. Where a handler throws or rejects, it is not
 * confirmed and comes again. What nobody listens to is held for the first handler and stays unconfirmed until then.
 */
export class Chat {
  readonly userId: string;
  readonly deviceId: string;
  readonly #emitter = new Emitter<ChatEvents>();
  readonly #connection: Connection;
  readonly #outbox: Outbox;
  readonly #confirmations: Confirmations;
  readonly #seen = new Seen<State>();
  /** What came with the opening itself, until the caller has had its turn to listen. */
  #early: ServerFrame[] | undefined = [];
  #held: { kind: Confirmable; retake: () => void }[] = [];
  readonly #autoConfirm: boolean;
  #connections = 0;

  /** @internal */
  constructor(options: ConnectOptions, firstToken: string) {
    ({ userId: this.userId, deviceId: this.deviceId } = readToken(firstToken));
    this.#autoConfirm = options.autoConfirm ?? true;
    const retryDelayMs = options.maxRetryDelayMs ?? longestDelayMs;
    this.#connection = new Connection(
      options.url,
      options.token,
      firstToken,
      {
        opened: () => {
          this.#connections += 1;
          if (this.#connections === 1) nextTurn(() => this.#start());
          this.#confirmations.reconnected();
          this.#outbox.flush();
        },
        received: (frame) => {
          if (this.#early === undefined) this.#received(frame);
          else this.#early.push(frame);
        },
        lost: () => this.#outbox.connectionLost(),
        changed: (status) => {
          if (status.state === 'closed') {
            this.#outbox.close(status.error ?? new ChatError('closed', 'the client was closed before the answer'));
          }
          this.#tell('status', status);
        },
        trace: options.onTrace,
      },
      retryDelayMs,
    );
    this.#outbox = new Outbox((frame) => this.#connection.send(frame), options.maxOutbox ?? 10_000, retryDelayMs);
    this.#confirmations = new Confirmations((frame) => this.#connection.send(frame));
  }

  /** @internal */
  open(): Promise<void> {
    return this.#connection.open();
  }

  /** Adds a handler; call the result to remove it. A handler may return a promise: what it handles is confirmed after. */
  on<K extends keyof ChatEvents>(name: K, handler: (value: ChatEvents[K]) => unknown): () => void {
    const remove = this.#emitter.on(name, handler);
    const held = this.#held;
    this.#held = [];
    for (const { retake } of held) retake();
    return remove;
  }

  /**
   * Sends a text. Resolves when the server has it durably; sent again under the same id over reconnects, and when the
   * server is busy. Rejects with a ChatError when it is refused for good, or when the client is closed first (it may
   * then have been accepted: send it again with the same clientMessageId to find out).
   */
  send({ to, text, clientMessageId = crypto.randomUUID() }: Outgoing): Promise<Sent> {
    // Checked here too, since a frame that the server cannot answer would be sent for ever.
    if (!uuid.test(to)) return invalid('"to" is not a lower-case UUID');
    if (!uuid.test(clientMessageId)) return invalid('"clientMessageId" is not a lower-case UUID');
    if (text.length === 0 || (text.length > maxCodePoints && !fits(text))) {
      return invalid(`a text has 1 to ${maxCodePoints} code points`);
    }
    return this.#outbox.add({
      sender_id: this.userId,
      receiver_id: to,
      content: text,
      timestamp: new Date().toISOString(),
      client_message_id: clientMessageId,
    });
  }

  /** Says that the user has seen these messages. */
  markRead(serverMessageIds: string | Iterable<string>): void {
    for (const id of typeof serverMessageIds === 'string' ? [serverMessageIds] : serverMessageIds) {
      this.#seen.set(id, 'read');
      this.#confirmations.message(id, 'read');
    }
  }

  /** Hands in a fresh token before the old one expires. */
  authenticate(token: string): void {
    this.#connection.authenticate(token);
  }

  /** Sends the confirmations that are due and closes. Sends without an answer reject with `closed`. */
  async close(): Promise<void> {
    this.#confirmations.flush();
    await this.#connection.close();
  }

  #start(): void {
    const early = this.#early ?? [];
    this.#early = undefined;
    for (const frame of early) this.#received(frame);
  }

  #received(frame: ServerFrame): void {
    if ('status' in frame) {
      if (frame.status === 'sent') this.#outbox.accepted(frame);
      else this.#take('receipt', frame.event_id, () => rename(frame) as Receipt);
    } else if ('sender_id' in frame) this.#take('message', frame.server_message_id, () => toMessage(frame));
    else if ('event' in frame) this.#take('event', frame.event.event_id, () => rename(frame.event) as ChatEvent);
    else if ('error' in frame) this.#refused(frame);
    else if ('caught_up' in frame) this.#tell('caught_up', { connection: this.#connections });
  }

  /** Runs handlers of what needs no confirmation; their errors are told, and never disturb the connection. */
  #tell<K extends keyof ChatEvents>(name: K, value: ChatEvents[K]): void {
    const failed = (cause: unknown): void => {
      const error = new ChatError('handler_failed', `a ${name} handler failed`, undefined, { cause });
      if (name !== 'error') this.#tell('error', error);
      else
        nextTurn(() => {
          throw error;
        });
    };
    try {
      this.#emitter.emit(name, value)?.catch(failed);
    } catch (cause) {
      failed(cause);
    }
  }

  #refused(frame: ErrorFrame): void {
    if (this.#outbox.refused(frame)) return;
    const { code, message, retry_after_ms } = frame.error;
    this.#tell('error', new ChatError(code, message, retry_after_ms));
  }

  /** Shows once, then confirms; a repeat of what was confirmed is confirmed again, since that got lost. */
  #take<K extends Confirmable>(kind: K, id: string, value: () => ChatEvents[K]): void {
    const state = this.#seen.get(id);
    if (state === 'handling') return;
    if (state !== undefined) {
      this.#confirm(kind, id, state);
      return;
    }
    if (!this.#emitter.has(kind)) {
      if (this.#held.length < maxHeld) this.#held.push({ kind, retake: () => this.#take(kind, id, value) });
      return;
    }
    this.#seen.set(id, 'handling');
    try {
      const pending = this.#emitter.emit(kind, value());
      if (pending === undefined) this.#handled(kind, id);
      else
        pending.then(
          () => this.#handled(kind, id),
          (error) => this.#notHandled(kind, id, error),
        );
    } catch (error) {
      this.#notHandled(kind, id, error);
    }
  }

  #handled(kind: Confirmable, id: string): void {
    const state = this.#seen.get(id) === 'read' ? 'read' : 'delivered';
    this.#seen.set(id, state);
    this.#confirm(kind, id, state);
  }

  #notHandled(kind: Confirmable, id: string, cause: unknown): void {
    this.#seen.forget(id);
    this.#tell('error', new ChatError('handler_failed', `a ${kind} handler failed`, undefined, { cause }));
  }

  #confirm(kind: Confirmable, id: string, status: 'delivered' | 'read'): void {
    if (!this.#autoConfirm) return;
    if (kind === 'message') this.#confirmations.message(id, status);
    else this.#confirmations.event(id);
  }
}

/**
 * Connects one device. Resolves when the first connection is open and then keeps it open until `close`.
 * @throws ChatError when the first connection cannot be had: `unauthenticated`, `permission_denied`, `not_found`,
 * `unavailable`, or `invalid_argument` for a token that is no JWT
 */
export async function connect(options: ConnectOptions): Promise<Chat> {
  const { token } = options;
  const chat = new Chat(options, typeof token === 'string' ? token : await token());
  await chat.open();
  return chat;
}

const names = new Map([
  ...['status', 'timestamp', 'code', 'kind', 'body', 'data'].map((name) => [name, name] as const),
  ['server_message_id', 'serverMessageId'],
  ['client_message_id', 'clientMessageId'],
  ['sender_id', 'senderId'],
  ['receiver_id', 'receiverId'],
  ['group_id', 'groupId'],
  ['user_id', 'userId'],
  ['device_id', 'deviceId'],
  ['event_id', 'eventId'],
  ['key_id', 'keyId'],
]);

/** The wire's fields under the names of this API; absent fields stay absent, unknown ones are left out. */
function rename(frame: object): object {
  const renamed: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(frame)) {
    const name = names.get(key);
    if (name !== undefined) renamed[name] = value;
  }
  return renamed;
}

function toMessage({ content = '', sealed, ...frame }: MessageFrame): Message {
  return { ...rename(frame), text: content, ...(sealed !== undefined && { sealed: rename(sealed) }) } as Message;
}

function fits(text: string): boolean {
  if (text.length > 2 * maxCodePoints) return false;
  let codePoints = 0;
  for (const _ of text) codePoints += 1;
  return codePoints <= maxCodePoints;
}

function invalid(message: string): Promise<never> {
  return Promise.reject(new ChatError('invalid_argument', message));
}
