import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const SLOTS = 16_384;
const START_MS = 20_000;

/** One redis-server of a test's own, on a free port, with a temporary directory. */
export class RedisServer {
  readonly port: number;
  readonly #directory: string;
  readonly #args: readonly string[];
  #child: ChildProcess | undefined;

  private constructor(port: number, directory: string, args: readonly string[]) {
    this.port = port;
    this.#directory = directory;
    this.#args = args;
  }

  /** Starts one; `options` are the server's, such as `--requirepass secret`. */
  static async start(...options: string[]): Promise<RedisServer> {
    const port = await freePort();
    const directory = await mkdtemp(join(tmpdir(), 'chatmesh-redis-'));
    const own = ['--bind', '127.0.0.1', '--port', String(port), '--dir', directory, '--save', '', '--appendonly', 'no'];
    const server = new RedisServer(port, directory, [...own, ...options]);
    await server.restart();
    return server;
  }

  /** Starts a sentinel that decides alone, and soon, when `master` is gone; it calls it mymaster. */
  static async startSentinel(master: RedisServer): Promise<RedisServer> {
    const port = await freePort();
    const directory = await mkdtemp(join(tmpdir(), 'chatmesh-sentinel-'));
    const file = join(directory, 'sentinel.conf');
    const lines = [
      `port ${port}`,
      `dir ${directory}`,
      `sentinel monitor mymaster 127.0.0.1 ${master.port} 1`,
      'sentinel down-after-milliseconds mymaster 500',
      'sentinel failover-timeout mymaster 5000',
    ];
    await writeFile(file, lines.join('\n'));
    const server = new RedisServer(port, directory, [file, '--sentinel']);
    await server.restart();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts the server again on its port, after {@link kill}. What it kept in memory is gone. */
  async restart(): Promise<void> {
    const child = spawn('redis-server', this.#args, { stdio: 'ignore' });
    this.#child = child;
    await this.#answers(child);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  /** Makes the server stand still, its connections open, until {@link resume}. */
  pause(): void {
    this.#child?.kill('SIGSTOP');
  }

  resume(): void {
    this.#child?.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    await rm(this.#directory, { recursive: true, force: true });
  }

  /** Sends one command by a connection of its own. @returns the raw answer; errors begin with `-`. */
  async command(...words: (string | number)[]): Promise<string> {
    const socket = connect(this.port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      const parts = words.map((word) => `$${Buffer.byteLength(String(word))}\r\n${word}\r\n`);
      socket.write(`*${words.length}\r\n${parts.join('')}`);
      const [answer] = await once(socket, 'data');
      return String(answer);
    } finally {
      socket.destroy();
    }
  }

  async #answers(child: ChildProcess): Promise<void> {
    child.once('error', () => {});
    const endsAtMs = Date.now() + START_MS;
    while (!/^(\+PONG|-NOAUTH)/.test(await this.command('PING').catch(() => ''))) {
      if (child.pid === undefined) throw new Error('redis-server is not installed: apt-get install redis-server');
      if (child.exitCode !== null) throw new Error(`redis-server ended at start with code ${child.exitCode}`);
      if (Date.now() > endsAtMs) throw new Error(`redis-server on port ${this.port} does not answer`);
      await sleep(20);
    }
  }
}

/** A cluster of three masters. */
export async function startRedisCluster(): Promise<RedisServer[]> {
  const servers: RedisServer[] = [];
  for (let i = 0; i < 3; i++) {
    servers.push(await RedisServer.start('--cluster-enabled', 'yes', '--cluster-node-timeout', '2000'));
  }
  const share = Math.ceil(SLOTS / servers.length);
  for (const [i, server] of servers.entries()) {
    const slots = Array.from({ length: Math.min(share, SLOTS - i * share) }, (_, slot) => i * share + slot);
    await server.command('CLUSTER', 'ADDSLOTS', ...slots);
    await server.command('CLUSTER', 'MEET', '127.0.0.1', (servers[0] as RedisServer).port);
  }
  const endsAtMs = Date.now() + START_MS;
  const complete = async (server: RedisServer) => {
    const info = await server.command('CLUSTER', 'INFO');
    return info.includes('cluster_state:ok') && info.includes('cluster_known_nodes:3');
  };
  while (!(await Promise.all(servers.map(complete))).every(Boolean)) {
    if (Date.now() > endsAtMs) throw new Error('the cluster did not form');
    await sleep(50);
  }
  return servers;
}

/** Free now. A cluster's node also takes the port 10,000 above it: neither is one that the system gives by itself. */
export async function freePort(): Promise<number> {
  for (;;) {
    const server = createServer().listen(20_000 + Math.floor(Math.random() * 2_700), '127.0.0.1');
    try {
      await once(server, 'listening');
      const { port } = server.address() as { port: number };
      return port;
    } catch {
      // Taken: another one.
    } finally {
      server.close();
    }
  }
}
