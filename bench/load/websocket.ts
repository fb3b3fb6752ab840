import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';

/**
 * A WebSocket client that costs a load generator little: text frames up to 64 KiB, no fragments, no extensions.
 *
 * The masking key of RFC 6455 is one byte four times. The server's work is that of any other key; here it makes
 * masking independent of the position, so that frames can be put together from parts masked once.
 */
const MASK = 0x5a;

const OPCODE_TEXT = 0x1;
const OPCODE_CLOSE = 0x8;
const OPCODE_PING = 0x9;
const OPCODE_PONG = 0xa;
const FINAL = 0x80;
const MASKED = 0x80;
/** How long the server has to answer a close, milliseconds. */
const CLOSE_TIMEOUT_MS = 1_000;

const EMPTY = Buffer.alloc(0);
/** Close code 1000. */
const NORMAL_CLOSURE = Buffer.of(0x03, 0xe8);
/** All sockets read into the same memory: the parser is done with it before the next read. */
const READ_BUFFER = Buffer.allocUnsafeSlow(256 * 1024);

/** What a connection reports. */
export interface WebSocketHandler {
  /** A text frame; each char of `text` is one byte of its UTF-8. */
  onText(text: string): void;
  /** The connection ended otherwise than by `end()`; `code` is undefined without a close frame. */
  onClose(code: number | undefined): void;
}

/** What a frame of `payloadBytes` needs in memory, head included. */
export function frameBytes(payloadBytes: number): number {
  return payloadBytes + (payloadBytes < 126 ? 6 : 8);
}

/** Writes a masked text frame whose payload has one byte per char; returns where it ends. */
export function writeTextFrame(target: Buffer, at: number, payload: string): number {
  const begin = writeHead(target, at, OPCODE_TEXT, payload.length);
  target.write(payload, begin, 'latin1');
  return maskRange(target, begin, begin + payload.length);
}

/** One byte as it stands in a masked payload. */
export function maskByte(byte: number): number {
  return byte ^ MASK;
}

function writeHead(target: Buffer, at: number, opcode: number, payloadBytes: number): number {
  if (payloadBytes > 0xffff) throw new RangeError(`a frame of ${payloadBytes} bytes`);
  const short = payloadBytes < 126;
  const begin = at + frameBytes(payloadBytes) - payloadBytes;
  target[at] = FINAL | opcode;
  target[at + 1] = MASKED | (short ? payloadBytes : 126);
  if (!short) target.writeUInt16BE(payloadBytes, at + 2);
  target.fill(MASK, begin - 4, begin);
  return begin;
}

function maskRange(target: Buffer, begin: number, end: number): number {
  for (let i = begin; i < end; i++) target[i] = (target[i] as number) ^ MASK;
  return end;
}

function controlFrame(opcode: number, payload: Buffer): Buffer {
  const target = Buffer.alloc(frameBytes(payload.length));
  const begin = writeHead(target, 0, opcode, payload.length);
  payload.copy(target, begin);
  maskRange(target, begin, target.length);
  return target;
}

export class RawWebSocket {
  readonly #tcp: Socket;
  readonly #handler: WebSocketHandler;
  /** What the last read left over: the beginning of the upgrade's answer or of a frame. */
  #rest: Buffer = EMPTY;
  #open: ((error?: Error) => void) | undefined;
  #closeCode: number | undefined;
  #ended = false;

  private constructor(url: URL, token: string, handler: WebSocketHandler, open: (error?: Error) => void) {
    this.#handler = handler;
    this.#open = open;
    this.#tcp = connect({
      host: url.hostname,
      port: Number(url.port),
      noDelay: true,
      onread: {
        buffer: READ_BUFFER,
        callback: (length, buffer) => {
          this.#read(buffer as Buffer, length);
          return true;
        },
      },
    });
    this.#tcp.on('error', (error) => this.#open?.(error));
    this.#tcp.on('close', () => {
      if (this.#open) this.#open(new Error('closed before the upgrade'));
      else if (!this.#ended) this.#handler.onClose(this.#closeCode);
    });
    this.#tcp.write(
      `GET ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\n` +
        `Authorization: Bearer ${token}\r\n\r\n`,
    );
  }

  /**
   * Connects and upgrades. Frames that follow the upgrade at once are reported before the promise resolves.
   *
   * @throws Error with the server's answer when it refuses.
   */
  static connect(url: string, token: string, handler: WebSocketHandler): Promise<RawWebSocket> {
    return new Promise((resolve, reject) => {
      const socket = new RawWebSocket(new URL(url), token, handler, (error) =>
        error ? reject(error) : resolve(socket),
      );
    });
  }

  /** Writes whole masked frames; `done` is called when the memory may be used again. */
  write(frames: Buffer, done: () => void): void {
    this.#tcp.write(frames, done);
  }

  /** Closes the connection after what was written before; nothing is reported any more. */
  end(): Promise<void> {
    this.#ended = true;
    if (this.#tcp.closed) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#tcp.destroy(), CLOSE_TIMEOUT_MS);
      this.#tcp.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      this.#tcp.end(controlFrame(OPCODE_CLOSE, NORMAL_CLOSURE));
    });
  }

  #read(chunk: Buffer, length: number): void {
    if (this.#ended) return;
    let data = chunk.subarray(0, length);
    if (this.#rest.length > 0) data = Buffer.concat([this.#rest, data]);
    let at = this.#open ? this.#upgraded(data) : 0;
    if (!this.#open) at = this.#frames(data, at);
    this.#rest = at < data.length ? Buffer.from(data.subarray(at)) : EMPTY;
  }

  /** Reads the answer to the upgrade; returns where frames begin. */
  #upgraded(data: Buffer): number {
    const end = data.indexOf('\r\n\r\n');
    if (end < 0) return 0;
    const open = this.#open;
    if (!data.toString('latin1', 0, end).startsWith('HTTP/1.1 101')) {
      this.#ended = true;
      this.#tcp.destroy();
      open?.(new Error(`refused: ${data.toString().replaceAll('\r\n', ' ')}`));
      return data.length;
    }
    this.#open = undefined;
    open?.();
    return end + 4;
  }

  /** Takes the whole frames from `at` on; returns where the first incomplete one begins. */
  #frames(data: Buffer, start: number): number {
    let at = start;
    while (data.length - at >= 2) {
      const opcode = (data[at] as number) & 0x0f;
      let length = data[at + 1] as number;
      let head = 2;
      if (length === 126) {
        if (data.length - at < 4) break;
        length = data.readUInt16BE(at + 2);
        head = 4;
      } else if (length > 126) throw new Error('the server sent a masked frame or one over 64 KiB');
      const end = at + head + length;
      if (end > data.length) break;
      if (opcode === OPCODE_TEXT) this.#handler.onText(data.toString('latin1', at + head, end));
      else if (opcode === OPCODE_PING) this.#tcp.write(controlFrame(OPCODE_PONG, data.subarray(at + head, end)));
      else if (opcode === OPCODE_CLOSE) this.#closeCode = length >= 2 ? data.readUInt16BE(at + head) : 1005;
      at = end;
    }
    return at;
  }
}
