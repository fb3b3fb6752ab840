import { openSocket } from '#socket';
import { backoffMs, pause } from './backoff.js';
import { ChatError } from './errors.js';
import type { ClientFrame, ServerFrame } from './frames.js';
import type { Socket, SocketEnd } from './socket.js';

/** Where the connection stands: connecting, then online; lost: waiting, then connecting again; closed is final. */
export type ConnectionStatus =
  | { state: 'connecting' }
  | { state: 'online' }
  | { state: 'waiting'; retryInMs: number; reason: string }
  | { state: 'closed'; error?: ChatError };

/** What went over which connection, numbered from 1: for logs, and for testing/history. */
export type Trace =
  | { kind: 'connecting'; connection: number }
  | { kind: 'in'; connection: number; frame: ServerFrame }
  | { kind: 'out'; connection: number; frame: ClientFrame }
  | { kind: 'closed'; connection: number; code: number; byClient: boolean };

/** A token, or where to get a fresh one. */
export type TokenSource = string | (() => string | Promise<string>);

export interface ConnectionEvents {
  opened(): void;
  received(frame: ServerFrame): void;
  lost(): void;
  changed(status: ConnectionStatus): void;
  trace: ((entry: Trace) => void) | undefined;
}

/** A connection that lived this long was a good one: the next backoff starts from the beginning. */
const stableMs = 5000;
const subprotocol = 'chatmesh.v1';

/** Keeps one WebSocket to `/connect` alive until it is closed or refused for good. */
export class Connection {
  readonly #closing = new AbortController();
  #socket: Socket | undefined;
  #online = false;
  #number = 0;
  #goingAwayMs: number | undefined;
  #refusedToken: string | undefined;
  #tokensExhausted = false;
  #firstToken: string | undefined;
  #life: Promise<void> | undefined;

  /**
   * @param url the edge, `ws:`, `wss:`, `http:` or `https:`; without a path, `/connect` is meant
   * @param firstToken what `token` gave already
   * @param longestDelayMs between attempts to connect, where the server does not say
   */
  constructor(
    private readonly url: string,
    private token: TokenSource,
    firstToken: string,
    private readonly events: ConnectionEvents,
    private readonly longestDelayMs: number,
  ) {
    this.#firstToken = firstToken;
  }

  /** Resolves when the first connection is open; rejects with a ChatError when it cannot be had, and stays closed. */
  open(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#life = this.#live(resolve, reject);
    });
  }

  /** Hands a frame to the socket; false when there is none open. */
  send(frame: ClientFrame): boolean {
    if (!this.#online || !this.#socket?.open) return false;
    // Traced first, so that a confirmation is known before anything that it causes.
    this.events.trace?.({ kind: 'out', connection: this.#number, frame });
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  /** Replaces the token, on the open connection and for later ones. */
  authenticate(token: string): void {
    this.token = token;
    this.send({ auth: { token } });
  }

  /**
   * Closes with a handshake, so that everything sent before it is read. Resolves when that is done; nothing is handed
   * over after the call.
   */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#socket?.close();
    await this.#life;
  }

  async #live(opened: () => void, failed: (error: ChatError) => void): Promise<void> {
    let attempt = 0;
    let everOpened = false;
    for (;;) {
      this.events.changed({ state: 'connecting' });
      this.#number += 1;
      let openedAtMs: number | undefined;
      const end = await this.#session(() => {
        openedAtMs = performance.now();
        everOpened = true;
        opened();
      });
      const closing = this.#closing.signal.aborted;
      this.events.trace?.({ kind: 'closed', connection: this.#number, code: end.code, byClient: closing });
      const error = this.#refusal(end);
      if (closing || error !== undefined || !everOpened) {
        this.events.changed(error === undefined || closing ? { state: 'closed' } : { state: 'closed', error });
        if (!everOpened)
          failed(error ?? new ChatError(closing ? 'closed' : (end.errorCode ?? 'unavailable'), reason(end)));
        return;
      }
      if (openedAtMs !== undefined && performance.now() - openedAtMs > stableMs) attempt = 0;
      const retryInMs = this.#goingAwayMs ?? backoffMs(attempt++, this.longestDelayMs);
      this.#goingAwayMs = undefined;
      this.events.changed({ state: 'waiting', retryInMs, reason: reason(end) });
      await pause(retryInMs, this.#closing.signal);
      if (this.#closing.signal.aborted) {
        this.events.changed({ state: 'closed' });
        return;
      }
    }
  }

  /** One socket from its opening to its end. */
  async #session(opened: () => void): Promise<SocketEnd> {
    let token: string;
    try {
      token = this.#firstToken ?? (typeof this.token === 'string' ? this.token : await this.token());
      this.#firstToken = undefined;
    } catch (error) {
      return { code: 1006, reason: `no token: ${error instanceof Error ? error.message : String(error)}` };
    }
    if (this.#closing.signal.aborted) return { code: 1000, reason: 'closed' };
    // Only a token that was not refused yet is worth another attempt.
    if (token === this.#refusedToken) {
      this.#tokensExhausted = true;
      return { code: 4401, reason: 'there is no fresh token' };
    }
    this.events.trace?.({ kind: 'connecting', connection: this.#number });

    const end = await new Promise<SocketEnd>((resolve) => {
      try {
        this.#socket = openSocket(connectUrl(this.url), [subprotocol, `bearer.${token}`], {
          opened: () => {
            this.#online = true;
            this.events.changed({ state: 'online' });
            this.events.opened();
            opened();
          },
          received: (text) => this.#received(text),
          closed: resolve,
        });
      } catch (error) {
        resolve({ code: 1006, reason: error instanceof Error ? error.message : String(error) });
      }
    });
    this.#socket = undefined;
    if (this.#online) {
      this.#online = false;
      this.events.lost();
    }
    if (end.errorCode === 'unauthenticated' || end.code === 4401) this.#refusedToken = token;
    return end;
  }

  /** The error that an end means for good, or undefined when another attempt may succeed. */
  #refusal(end: SocketEnd): ChatError | undefined {
    const code = end.errorCode;
    if (code === 'unauthenticated' || end.code === 4401) {
      const fresh = !this.#tokensExhausted && this.token !== this.#refusedToken;
      return fresh ? undefined : new ChatError('unauthenticated', reason(end));
    }
    if (code === 'permission_denied' || end.code === 4403) return new ChatError('permission_denied', reason(end));
    if (end.code === 4409) return new ChatError('aborted', 'a newer connection of the same device took over');
    // The path is wrong, or what answers there takes no WebSockets.
    if (code === 'not_found' || code === 'failed_precondition') return new ChatError(code, reason(end));
    return undefined;
  }

  #received(text: string): void {
    // What arrives while this side closes cannot be confirmed any more: it must not be shown, since it comes again.
    if (this.#closing.signal.aborted) return;
    let frame: ServerFrame;
    try {
      frame = JSON.parse(text) as ServerFrame;
    } catch {
      return;
    }
    if (typeof frame !== 'object' || frame === null) return;
    this.events.trace?.({ kind: 'in', connection: this.#number, frame });
    if ('going_away' in frame) this.#goingAwayMs = frame.going_away.reconnect_after_ms;
    else if (!('heartbeat' in frame)) this.events.received(frame);
  }
}

function reason(end: SocketEnd): string {
  return end.reason || `the connection closed with ${end.code}`;
}

function connectUrl(url: string): string {
  const parsed = new URL(url);
  parsed.protocol = parsed.protocol.replace('http', 'ws');
  if (parsed.pathname === '/') parsed.pathname = '/connect';
  return parsed.href;
}
