import type { OpenSocket, SocketEnd } from './socket.js';
import { Watchdog } from './watchdog.js';

const handshakeTimeoutMs = 10_000;
const closeTimeoutMs = 3_000;
/** Asks the server for frames that a browser's code can see: pings stay hidden from it. */
const heartbeatProtocol = 'chatmesh.v1.heartbeat';

/**
 * The browser's own WebSocket. A path that has gone dead is given up here: the browser itself would wait for minutes, and
 * then for the answer to its closing handshake.
 */
export const openSocket: OpenSocket = (url, protocols, events, limits) => {
  const socket = new WebSocket(url, [...protocols, heartbeatProtocol]);
  let watchdog: Watchdog | undefined;
  let closing: ReturnType<typeof setTimeout> | undefined;
  const handshake = setTimeout(
    () => end({ code: 1006, reason: 'the server did not answer' }),
    limits?.handshakeTimeoutMs ?? handshakeTimeoutMs,
  );
  let ended = false;

  const end = (how: SocketEnd): void => {
    if (ended) return;
    ended = true;
    clearTimeout(handshake);
    clearTimeout(closing);
    watchdog?.stop();
    socket.close();
    events.closed(how);
  };
  socket.onopen = () => {
    if (ended) return;
    clearTimeout(handshake);
    watchdog = new Watchdog(() => end({ code: 1006, reason: 'the server is silent' }), limits?.silenceLimitMs);
    events.opened();
  };
  socket.onmessage = ({ data }) => {
    if (ended) return;
    watchdog?.heard();
    events.received(data);
  };
  socket.onclose = ({ code, reason }) => end({ code, reason });
  return {
    get open() {
      return !ended && socket.readyState === WebSocket.OPEN;
    },
    send: (text) => socket.send(text),
    close: () => {
      if (ended) return;
      socket.close(1000);
      closing ??= setTimeout(() => end({ code: 1006, reason: 'the server did not answer the close' }), closeTimeoutMs);
    },
  };
};
