import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
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
  readonly #options: readonly string[];
  #child: ChildProcess | undefined;

  private constructor(port: number, directory: string, options: readonly string[]) {
    this.port = port;
    this.#directory = directory;
    this.#options = options;
  }

  /** Starts one; `options` are the server's, such as `--requirepass secret`. */
  static async start(...options: string[]): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), await mkdtemp(join(tmpdir(), 'chatmesh-redis-')), options);
    await server.restart();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts the server again on its port, after {@link kill}. What it kept in memory is gone. */
  async restart(): Promise<void> {
    const own = ['--bind', '127.0.0.1', '--port', String(this.port), '--dir', this.#directory];
    const child = spawn('redis-server', [...own, '--save', '', '--appendonly', 'no', ...this.#options], {
      stdio: 'ignore',
    });
    this.#child = child;
    const missing = once(child, 'error').then(() => {
      throw new Error('redis-server is not installed: apt-get install redis-server');
    });
    await Promise.race([this.#answers(), missing]);
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

  async #answers(): Promise<void> {
    const endsAtMs = Date.now() + START_MS;
    while (!/^(\+PONG|-NOAUTH)/.test(await this.command('PING').catch(() => ''))) {
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

/** Free now; a cluster's node also takes the port 10,000 above it. */
async function freePort(): Promise<number> {
  for (;;) {
    const server = createServer().listen(20_000 + Math.floor(Math.random() * 10_000), '127.0.0.1');
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
