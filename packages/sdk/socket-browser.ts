import type { OpenSocket } from './socket.js';

/** The browser's own WebSocket. */
export const openSocket: OpenSocket = (url, protocols, events) => {
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => events.opened();
  socket.onmessage = ({ data }) => events.received(data);
  socket.onclose = ({ code, reason }) => events.closed({ code, reason });
  return {
    get open() {
      return socket.readyState === WebSocket.OPEN;
    },
    send: (text) => socket.send(text),
    close: () => socket.close(1000),
  };
};
