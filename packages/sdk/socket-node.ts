import { type ClientOptions, WebSocket } from 'ws';
import type { OpenSocket } from './socket.js';

/** The server pings every 25 seconds; a connection on which nothing came for this long is dead. */
const silenceLimitMs = 60_000;
const maxRefusalBytes = 4096;

const options: ClientOptions & { closeTimeout: number } = {
  perMessageDeflate: false,
  handshakeTimeout: 10_000,
  closeTimeout: 3000,
  maxPayload: 1024 * 1024,
};

/** The WebSocket of the `ws` package, which shows why an upgrade was refused and when the server pings. */
export const openSocket: OpenSocket = (url, protocols, events) => {
  const socket = new WebSocket(url, protocols, options);
  let failure = '';
  let refusal: { httpStatus: number; errorCode?: string } | undefined;
  let heardAtMs = performance.now();
  let watch: ReturnType<typeof setInterval> | undefined;

  socket.on('open', () => {
    heardAtMs = performance.now();
    watch = setInterval(() => {
      if (performance.now() - heardAtMs > silenceLimitMs) socket.terminate();
    }, silenceLimitMs / 4);
    watch.unref();
    events.opened();
  });
  socket.on('ping', () => {
    heardAtMs = performance.now();
  });
  socket.on('message', (data) => {
    heardAtMs = performance.now();
    events.received(data.toString());
  });
  socket.on('unexpected-response', (_request, response) => {
    const httpStatus = response.statusCode ?? 0;
    refusal = { httpStatus };
    failure = `the server answered ${httpStatus}`;
    let body = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      if (body.length < maxRefusalBytes) body += chunk;
    });
    response.on('error', () => socket.terminate());
    response.on('end', () => {
      const error = parseRefusal(body);
      if (error !== undefined) {
        refusal = { httpStatus, errorCode: error.code };
        failure = error.message;
      }
      socket.terminate();
    });
  });
  socket.on('error', (error) => {
    failure ||= error.message || (error as NodeJS.ErrnoException).code || 'the connection failed';
  });
  socket.on('close', (code, reason) => {
    clearInterval(watch);
    events.closed({ code, reason: reason.toString() || failure, ...refusal });
  });

  return {
    get open() {
      return socket.readyState === WebSocket.OPEN;
    },
    send: (text) => socket.send(text),
    close: () => socket.close(1000),
  };
};

function parseRefusal(body: string): { code: string; message: string } | undefined {
  try {
    const { error } = JSON.parse(body) as { error?: { code?: unknown; message?: unknown } };
    return error === undefined ? undefined : { code: String(error.code), message: String(error.message) };
  } catch {
    return undefined;
  }
}
