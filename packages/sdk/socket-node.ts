import { type ClientOptions, WebSocket } from 'ws';
import { readRefusal } from './refusal.js';
import type { OpenSocket } from './socket.js';
import { Watchdog } from './watchdog.js';

const handshakeTimeoutMs = 10_000;
const maxRefusalBytes = 4096;

const options: ClientOptions & { closeTimeout: number } = {
  perMessageDeflate: false,
  closeTimeout: 3000,
  maxPayload: 1024 * 1024,
};

/** The WebSocket of the `ws` package, which shows why an upgrade was refused and when the server pings. */
export const openSocket: OpenSocket = (url, protocols, events, limits) => {
  const handshakeTimeout = limits?.handshakeTimeoutMs ?? handshakeTimeoutMs;
  const socket = new WebSocket(url, protocols, { ...options, handshakeTimeout });
  let failure = '';
  let errorCode: string | undefined;
  let watchdog: Watchdog | undefined;

  socket.on('open', () => {
    watchdog = new Watchdog(() => {
      failure ||= 'the server is silent';
      socket.terminate();
    }, limits?.silenceLimitMs);
    events.opened();
  });
  socket.on('ping', () => watchdog?.heard());
  socket.on('message', (data) => {
    watchdog?.heard();
    events.received(data.toString());
  });
  socket.on('unexpected-response', (_request, response) => {
    failure = `the server answered ${response.statusCode}`;
    let body = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      if (body.length < maxRefusalBytes) body += chunk;
    });
    response.on('error', () => socket.terminate());
    response.on('end', () => {
      const refusal = readRefusal(body);
      if (refusal !== undefined) {
        errorCode = refusal.code;
        failure = refusal.message;
      }
      socket.terminate();
    });
  });
  socket.on('error', (error) => {
    failure ||= error.message || (error as NodeJS.ErrnoException).code || 'the connection failed';
  });
  socket.on('close', (code, reason) => {
    watchdog?.stop();
    events.closed({ code, reason: reason.toString() || failure, ...(errorCode !== undefined && { errorCode }) });
  });

  return {
    get open() {
      return socket.readyState === WebSocket.OPEN;
    },
    send: (text) => socket.send(text),
    close: () => socket.close(1000),
  };
};
