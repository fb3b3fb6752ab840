// Free ports, and the smallest conversations that tell whether an engine answers.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Below the ports that systems give to outgoing connections: nobody gets a server's port while that server is down. */
const FIRST_PORT = 20_000;
/**
 * Each process looks at a stretch of its own, so that two that look at the same time, or while a server of the other is down,
 * do not find the same port.
 */
const STRETCHES = 100;
const STRETCH = 100;
let looked = Math.floor(Math.random() * STRETCH);

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
 * @throws Error when none is found, as where an address is not this machine's
 */
export async function freePort(hosts) {
  for (let tries = 0; tries < STRETCH; tries += 1) {
    const port = FIRST_PORT + (process.pid % STRETCHES) * STRETCH + (looked++ % STRETCH);
    const free = await Promise.all(hosts.map((host) => isFree(host, port)));
    if (free.every(Boolean)) return port;
  }
  throw new Error(
    `There is no free port on ${hosts.join(' and ')}. Linux has all of 127.0.0.0/8; elsewhere an address may have to be added.`,
  );
}

/**
 * Different ports that nobody listens on.
 *
 * @param {number} count
 * @param {string[]} [hosts] on all of these addresses
 * @returns {Promise<number[]>}
 */
export async function freePorts(count, hosts = ['127.0.0.1']) {
  /** @type {Set<number>} */
  const ports = new Set();
  while (ports.size < count) ports.add(await freePort(hosts));
  return [...ports];
}

/**
 * Sends requests, each when the one before it has been answered.
 *
 * @param {string} host
 * @param {number} port
 * @param {(Uint8Array | string)[]} requests
 * @param {{ timeoutMs: number }} options how long to wait for all of it
 * @returns {Promise<Buffer>} the answer to the last one, its first bytes at least; empty when there was none
 */
export function ask(host, port, requests, { timeoutMs }) {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    /** @param {Buffer} reply */
    const done = (reply) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(reply);
    };
    const timer = setTimeout(() => done(Buffer.alloc(0)), timeoutMs);
    let asked = 0;
    const next = () => socket.write(requests[asked++] ?? '');
    socket.on('data', (reply) => (asked < requests.length ? next() : done(reply)));
    socket.on('error', () => done(Buffer.alloc(0)));
    socket.on('end', () => done(Buffer.alloc(0)));
    next();
  });
}

/**
 * Whether somebody takes connections there.
 *
 * @param {string} host
 * @param {number} port
 * @returns {Promise<boolean>}
 */
export function accepts(host, port) {
  return new Promise((resolve) => {
    const socket = connect(port, host);
    socket.on('connect', () => resolve(true));
    socket.on('error', () => resolve(false));
    socket.on('connect', () => socket.destroy());
  });
}
