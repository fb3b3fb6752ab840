// Free ports, and the smallest conversations that tell whether an engine answers.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Below the ports that systems give to outgoing connections: nobody gets an engine's port while that engine is down. */
const PORTS = { first: 20_000, count: 10_000 };

/**
 * Whether somebody could listen there now.
 *
 * @param {string} host
 * @param {number} port
 * @returns {Promise<boolean>}
 */
export async function isFree(host, port) {
  const server = createServer();
  try {
    server.listen(port, host);
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}

/**
 * A port that nobody listens on, on all of some addresses.
 *
 * @param {string[]} hosts
 * @returns {Promise<number>}
 */
export async function freePort(hosts) {
  for (;;) {
    const port = PORTS.first + Math.floor(Math.random() * PORTS.count);
    const free = await Promise.all(hosts.map((host) => isFree(host, port)));
    if (free.every(Boolean)) return port;
  }
}

/**
 * Sends bytes and returns the first that come back.
 *
 * @param {string} host
 * @param {number} port
 * @param {Uint8Array | string} request
 * @param {{ timeoutMs: number }} options
 * @returns {Promise<Buffer>} empty when nothing came in time, or nobody is there
 */
export function ask(host, port, request, { timeoutMs }) {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    /** @param {Buffer} reply */
    const done = (reply) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reply);
    };
    const timer = setTimeout(() => done(Buffer.alloc(0)), timeoutMs);
    socket.on('data', done);
    socket.on('error', () => done(Buffer.alloc(0)));
    socket.on('end', () => done(Buffer.alloc(0)));
    socket.write(request);
  });
}
