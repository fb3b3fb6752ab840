import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  type IncomingHttpHeaders,
  type Settings,
} from 'node:http2';
import { connect, type Socket } from 'node:net';
import { until } from './mesh.js';

/** A bare HTTP/1.1 connection: what is written goes out as it is, what comes back is kept. */
export class RawHttp {
  readonly socket: Socket;
  text = '';
  closed = false;

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    this.socket.setEncoding('latin1').on('data', (part: string) => {
      this.text += part;
    });
    this.socket.on('error', () => {});
    this.socket.on('end', () => {
      this.closed = true;
    });
    this.socket.on('close', () => {
      this.closed = true;
    });
  }

  write(text: string): this {
    this.socket.write(text, 'latin1');
    return this;
  }

  /** The status codes of the answers so far. */
  get statuses(): number[] {
    return [...this.text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map(([, status]) => Number(status));
  }

  /** Waits for so many answers. */
  async answers(count: number): Promise<number[]> {
    await until(() => this.statuses.length >= count, { what: () => `${count} answers; there is ${this.text}` });
    return this.statuses;
  }

  /** Waits until the server has ended the connection. */
  async ended(): Promise<void> {
    await until(() => this.closed, { what: () => `the end of the connection; there is ${this.text}` });
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

/** What came back on one HTTP/2 stream. */
export class RawStream {
  readonly stream: ClientHttp2Stream;
  headers: IncomingHttpHeaders = {};
  text = '';
  /** The answer is complete; the request need not be. */
  answered = false;
  closed = false;

  constructor(session: ClientHttp2Session, path: string, headers: Record<string, string>) {
    this.stream = session.request({ ':method': 'POST', ':path': path, te: 'trailers', ...headers });
    this.stream.on('response', (given) => Object.assign(this.headers, given));
    this.stream.on('trailers', (given) => Object.assign(this.headers, given));
    this.stream.setEncoding('latin1').on('data', (part: string) => {
      this.text += part;
    });
    this.stream.on('end', () => {
      this.answered = true;
    });
    this.stream.on('error', () => {});
    this.stream.on('close', () => {
      this.closed = true;
    });
  }

  async ended(): Promise<this> {
    await until(() => this.closed, {
      what: () => `the end of a stream; there is ${JSON.stringify(this.headers)} ${this.text}`,
    });
    return this;
  }
}

export function dialHttp2(port: number, settings: Settings = {}): ClientHttp2Session {
  return connectHttp2(`http://127.0.0.1:${port}`, { settings }).on('error', () => {});
}
