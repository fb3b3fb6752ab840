import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';

/** Whether a request asks for a WebSocket; the only protocol that is upgraded to here, so that is what is then asked for. */
export function wantsWebSocket(request: IncomingMessage): boolean {
  const offered = (request.headers.upgrade ?? '').split(',').map((protocol) => protocol.trim().toLowerCase());
  if (!offered.includes('websocket')) return false;
  request.headers.upgrade = 'websocket';
  return true;
}

/**
 * Serves a request as if its `Upgrade` header were not there. Node has taken the connection out of HTTP by then and has not looked at what
 * follows the head, so the head is put back in front of it, without the header, and the server begins with the connection anew: bodies, further
 * requests and time-outs are as on any other.
 *
 * @param event what the server takes for a new connection: `secureConnection` with TLS.
 */
export function ignoreUpgrade(
  server: Server,
  event: 'connection' | 'secureConnection',
  { method, url, httpVersion, rawHeaders }: IncomingMessage,
  socket: Duplex,
  rest: Buffer,
): void {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const [name, value] = rawHeaders.slice(i, i + 2) as [string, string];
    const kept = keptOf(name.toLowerCase(), value);
    if (kept !== '') head += `${name}: ${kept}\r\n`;
  }
  socket.unshift(Buffer.concat([Buffer.from(`${head}\r\n`, 'latin1'), rest]));
  server.emit(event, socket);
}

function keptOf(name: string, value: string): string {
  if (name === 'upgrade') return '';
  if (name !== 'connection') return value;
  return value
    .split(',')
    .map((option) => option.trim())
    .filter((option) => option.toLowerCase() !== 'upgrade')
    .join(', ');
}
