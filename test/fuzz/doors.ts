import { connect as connectHttp2 } from 'node:http2';
import { connect } from 'node:net';
import { type Frame, WireClient } from '../client.js';
import { type TestUser, until } from '../mesh.js';

/** Error codes that the contract gives a client, and `unauthenticated`, the answer to a bad token. */
const CODES = new Set([
  ...['invalid_argument', 'not_found', 'permission_denied', 'resource_exhausted', 'unavailable', 'already_exists'],
  ...['failed_precondition', 'unauthenticated', 'unimplemented', 'aborted'],
]);
/** Their numbers in gRPC, and 0 for none. */
const NUMBERS = new Set([0, 3, 5, 6, 7, 8, 9, 10, 12, 14, 16]);
/** What the Connect library answers, before the mesh is asked, with `internal` (13): gRPC's word for broken framing. */
const BROKEN_FRAMING = /parse binary: |decompress|compress|protocol error|envelope|missing|extra (input )?message|EOF/i;
const MAX_FRAME_BYTES = 64 * 1024;
/** How long an answer that is due may take. */
const ANSWER_MS = 20_000;

/** A client of the WebSocket that confirms what it gets, so that nothing stops for want of confirmations. */
export class Thrower {
  #client: WireClient | undefined;

  constructor(
    private readonly url: string,
    private readonly user: TestUser,
  ) {}

  /**
   * Sends frames, fewer than the ten bad ones in a row that close a socket, then a good one: its answer proves that the
   * frames before it were handled. @throws when an answer is out of contract or a frame cost more than it may.
   */
  async frames(batch: readonly (string | Uint8Array)[], probe: string): Promise<void> {
    const client = await this.#connected();
    client.frames.length = 0;
    for (const frame of batch) client.socket.send(frame);
    client.message(crypto.randomUUID(), 'probe', probe);
    const answered = (f: Frame) => f.client_message_id === probe && f.error?.code === 'not_found';
    await until(() => client.closeCode !== undefined || client.frames.some(answered), {
      timeoutMs: ANSWER_MS,
      what: () => `the answer to the probe; there are ${JSON.stringify(client.frames.slice(-20))}`,
    });
    const errors = client.frames.filter((f) => f.error !== undefined);
    for (const frame of errors)
      if (!CODES.has(frame.error.code)) throw new Error(`a code out of contract: ${JSON.stringify(frame)}`);
    const tooBig = batch.some((frame) => Buffer.byteLength(frame) > MAX_FRAME_BYTES);
    if (client.closeCode !== (tooBig ? 1009 : undefined))
      throw new Error(`closed with ${client.closeCode} ${client.closeReason}`);
    const refused = errors.filter((f) => f.error.code === 'invalid_argument').length;
    const hopeless = batch.filter((frame) => typeof frame !== 'string' || !isObject(frame)).length;
    if (!tooBig && refused < hopeless) throw new Error(`${refused} refusals of ${hopeless} frames that are no objects`);
  }

  async close(): Promise<void> {
    if (this.#client && this.#client.closeCode === undefined) await this.#client.close();
  }

  async #connected(): Promise<WireClient> {
    if (this.#client && this.#client.closeCode === undefined) return this.#client;
    const client = await WireClient.connect(this.url, this.user);
    client.socket.on('message', (data) => {
      const { content, sealed, server_message_id: id, event_id: event } = JSON.parse(String(data));
      if (content !== undefined || sealed !== undefined) client.confirm('delivered', id);
      else if (event !== undefined) client.send({ ack: [event] });
    });
    await client.frame((f) => f.caught_up, 'caught_up', ANSWER_MS);
    this.#client = client;
    return client;
  }
}

/** A unary Connect call over HTTP/1.1. @returns the status @throws when the answer is out of contract. */
export async function unary(url: string, path: string, type: string, token: string, body: Uint8Array): Promise<number> {
  const headers = { 'content-type': type, authorization: `Bearer ${token}` };
  const response = await fetch(`${url}/${path}`, { method: 'POST', headers, body: Buffer.from(body) });
  const text = await response.text();
  if (response.status === 200 || response.status === 415) return response.status;
  const { code, message = '' } = JSON.parse(text);
  if (CODES.has(code) && response.status < 600) return response.status;
  if (code === 'internal' && BROKEN_FRAMING.test(message)) return response.status;
  throw new Error(`${response.status} ${text}`);
}

/** A gRPC-Web call over HTTP/1.1. @throws when it does not end with a status of the contract. */
export async function grpcWeb(url: string, path: string, token: string, body: Uint8Array): Promise<void> {
  const headers = { 'content-type': 'application/grpc-web+proto', authorization: `Bearer ${token}` };
  const response = await fetch(`${url}/${path}`, { method: 'POST', headers, body: Buffer.from(body) });
  const text = Buffer.from(await response.arrayBuffer()).toString('latin1');
  const trailer = (name: string) =>
    response.headers.get(name) ?? new RegExp(`${name}: ?([^\r\n]*)`, 'i').exec(text)?.[1];
  checkStatus(trailer('grpc-status'), decodeURIComponent(trailer('grpc-message') ?? ''), `${response.status} ${text}`);
}

/** What came back over HTTP/2 until the stream ended, `marker` was in it, or nothing came for `silenceMs`. */
export interface H2Answer {
  readonly text: string;
  readonly headers: Record<string, unknown>;
  readonly ended: boolean;
}

/** Calls over one HTTP/2 connection. */
export class H2Client {
  readonly #session;

  constructor(url: string) {
    this.#session = connectHttp2(url).on('error', () => {});
  }

  call(options: {
    path: string;
    type: string;
    token: string;
    body: Uint8Array;
    marker?: string;
    silenceMs: number;
  }): Promise<H2Answer> {
    const { path, type, token, body, marker, silenceMs } = options;
    const stream = this.#session.request({
      ':method': 'POST',
      ':path': `/${path}`,
      'content-type': type,
      te: 'trailers',
      authorization: `Bearer ${token}`,
    });
    return new Promise((resolve) => {
      let text = '';
      const headers: Record<string, unknown> = {};
      const done = (ended: boolean) => {
        resolve({ text, headers, ended });
        stream.close();
      };
      stream.on('response', (given) => Object.assign(headers, given));
      stream.on('trailers', (given) => Object.assign(headers, given));
      stream.setEncoding('latin1').on('data', (part: string) => {
        text += part;
        if (marker !== undefined && text.includes(marker)) done(false);
      });
      stream.on('error', () => {});
      stream.on('close', () => done(true));
      stream.setTimeout(silenceMs, () => done(false));
      stream.end(body);
    });
  }

  close(): void {
    this.#session.destroy();
  }
}

/** @throws when an ended gRPC call has no status of the contract. */
export function checkGrpc({ headers, text, ended }: H2Answer): void {
  if (!ended) throw new Error('a call that is over has not ended');
  const message = decodeURIComponent(String(headers['grpc-message'] ?? ''));
  if (headers[':status'] !== 415) checkStatus(headers['grpc-status'], message, text);
}

/** @throws when a stream of Connect's own protocol has ended by another code than the contract's. */
export function checkConnectStream({ headers, text, ended }: H2Answer): void {
  if (!ended || headers[':status'] !== 200) return;
  // The envelope that ends the stream is the last, and this is how its JSON begins.
  const at = text.lastIndexOf('{"error":{"code"');
  const end = at < 0 ? '{}' : Buffer.from(text.slice(at), 'latin1').toString('utf8');
  const { code, message = '' } = JSON.parse(end).error ?? {};
  const known = code === undefined || CODES.has(code) || (code === 'internal' && BROKEN_FRAMING.test(message));
  if (known && message !== 'internal error') return;
  throw new Error(`ended by ${text}`);
}

function checkStatus(status: unknown, message: string, what: string): void {
  if (status !== undefined && NUMBERS.has(Number(status))) return;
  if (Number(status) === 13 && BROKEN_FRAMING.test(message)) return;
  throw new Error(`status ${status} ${message}: ${what}`);
}

/** Writes bytes to a port; resolves with what came back until the end, an upgrade or silence. */
export function raw(url: string, bytes: Uint8Array, silenceMs: number): Promise<string> {
  return new Promise((resolve) => {
    let answer = '';
    const stream = connect(Number(new URL(url).port), '127.0.0.1', () => stream.write(bytes));
    stream.setTimeout(silenceMs, () => stream.destroy());
    stream.setEncoding('latin1').on('data', (text: string) => {
      answer += text;
      if (answer.startsWith('HTTP/1.1 101')) stream.destroy();
    });
    stream.on('error', () => {});
    stream.on('close', () => resolve(answer));
  });
}

function isObject(text: string): boolean {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
