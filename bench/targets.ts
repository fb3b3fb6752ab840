import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { freePorts } from '#engines';
import type { Account } from './jobs.js';
import { ServerProcess } from './server-process.js';
import { MeshUsers } from './users.js';

export type TargetName = 'baseline' | 'baseline-no-receipts' | 'mesh' | 'mesh-before' | 'mesh-on-engines';

/** A server that is running and ready. */
export interface Server extends AsyncDisposable {
  readonly target: TargetName;
  readonly process: Pick<ServerProcess, 'died' | 'tail'>;
  /** The processes whose CPU time and memory count, with their children. */
  readonly pids: readonly number[];
  /** The WebSocket's address. */
  readonly url: string;
  /** False where receipts are dropped. */
  readonly receipts: boolean;
  /** From the start of the process until it was ready, milliseconds. */
  readonly readyMs: number;
  /** Makes users with one device each. */
  createUsers(count: number): Promise<Account[]>;
  /** More devices of a user. */
  addDevices(account: Account, count: number): Account[];
  /** Ends the process and removes its data, unless the directory was the caller's. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface StartOptions {
  /** The file in which node leaves its CPU profile at the end. */
  profile?: string | undefined;
  /** Where the data lives; by default in a new directory that is removed with the server. */
  directory?: DataDirectory;
  /** The server collects its garbage at SIGUSR2. */
  collectOnSignal?: boolean;
  /** Where the real engines are. */
  engines?: NodeJS.ProcessEnv | undefined;
  /** The folder of another version, built: `mesh-before`. */
  before?: string | undefined;
}

const BASELINE = fileURLToPath(new URL('./baseline.js', import.meta.url));
const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const COLLECT_ON_SIGNAL = new URL('./collect-on-signal.js', import.meta.url).href;
const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 10;

/** A new directory for a server's data; removed when disposed, at the latest when this process exits. */
export class DataDirectory implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'chatmesh-bench-'));
  readonly #remove = () => rmSync(this.path, { recursive: true, force: true });

  constructor() {
    process.once('exit', this.#remove);
  }

  [Symbol.dispose](): void {
    process.off('exit', this.#remove);
    this.#remove();
  }
}

/** Starts a server and waits until it is ready. */
export function startServer(target: TargetName, options: StartOptions = {}): Promise<Server> {
  return target.startsWith('mesh') ? startMesh(target, options) : startBaseline(target, options);
}

async function startBaseline(target: TargetName, options: StartOptions): Promise<Server> {
  const directory = options.directory ?? new DataDirectory();
  const receipts = target === 'baseline';
  const began = performance.now();
  const args = [...nodeArgs(options), BASELINE, '--data', directory.path, ...(receipts ? [] : ['--no-receipts'])];
  const server = new ServerProcess(args, process.env);
  const { port } = JSON.parse(await server.firstLine()) as { port: number };
  const accountOf = (userId: string): Account => ({ userId, token: userId });
  return {
    target,
    process: server,
    pids: [server.pid],
    url: `ws://127.0.0.1:${port}/connect`,
    receipts,
    readyMs: performance.now() - began,
    createUsers: async (count) => Array.from({ length: count }, () => accountOf(randomUUID())),
    // The baseline takes what follows the user's id for the device.
    addDevices: ({ userId }, count) =>
      Array.from({ length: count }, (_, index) => ({ userId, token: `${userId}/${index + 1}` })),
    [Symbol.asyncDispose]: () => finish(server, options, directory),
  };
}

/** All four services in one process. */
async function startMesh(target: TargetName, options: StartOptions): Promise<Server> {
  const directory = options.directory ?? new DataDirectory();
  const [edge, edgeH2, chat, user, presence, admin] = await freePorts(6);
  const secret = randomBytes(32).toString('hex');
  const began = performance.now();
  const root = target === 'mesh-before' ? (options.before ?? ROOT) : ROOT;
  const server = new ServerProcess([...nodeArgs(options), ...meshArgs(root)], {
    ...process.env,
    ...(target === 'mesh-on-engines' && options.engines),
    EDGE_PORT: `${edge}`,
    EDGE_H2_PORT: `${edgeH2}`,
    CHAT_PORT: `${chat}`,
    USER_PORT: `${user}`,
    PRESENCE_PORT: `${presence}`,
    ADMIN_PORT: `${admin}`,
    DATA_DIR: directory.path,
    SEND_RATE: '0',
    MAX_CONNECTIONS_PER_USER: '0',
    LOG_LEVEL: 'warn',
    AUTH_HS256_SECRET: secret,
  });
  await Promise.race([untilReady(`http://127.0.0.1:${admin}/readyz`), server.died]).catch((error: Error) => {
    throw new Error(`the mesh did not start: ${error.message}\n${server.tail}`);
  });
  const readyMs = performance.now() - began;
  const users = new MeshUsers(`127.0.0.1:${user}`, secret);
  return {
    target,
    process: server,
    pids: [server.pid],
    url: `ws://127.0.0.1:${edge}/connect`,
    receipts: true,
    readyMs,
    createUsers: (count) => users.create(count),
    addDevices: (account, count) => users.addDevices(account, count),
    async [Symbol.asyncDispose]() {
      await users[Symbol.asyncDispose]();
      await finish(server, options, directory);
    },
  };
}

/** Routers that start together hand partitions round among themselves; what a hand-over costs is not what is measured. */
const HANDED_ROUND_MS = 8_000;

/** Routers in processes of their own, whose CPU time counts, and one process with everything else. */
export async function startRouters(count: number, engines: NodeJS.ProcessEnv): Promise<Server> {
  const directory = new DataDirectory();
  const [edge, edgeH2, user, presence, ...ports] = await freePorts(4 + 1 + 2 * count);
  const chats = ports.splice(0, count);
  const secret = randomBytes(32).toString('hex');
  const began = performance.now();
  const start = (services: string[], admin: number | undefined, env: NodeJS.ProcessEnv) =>
    new ServerProcess([...meshArgs(), ...services], {
      ...process.env,
      ...engines,
      EDGE_PORT: `${edge}`,
      EDGE_H2_PORT: `${edgeH2}`,
      USER_PORT: `${user}`,
      PRESENCE_PORT: `${presence}`,
      CHAT_ADDRESSES: chats.map((port) => `127.0.0.1:${port}`).join(),
      ADMIN_PORT: `${admin}`,
      DATA_DIR: directory.path,
      SEND_RATE: '0',
      MAX_CONNECTIONS_PER_USER: '0',
      LOG_LEVEL: 'warn',
      AUTH_HS256_SECRET: secret,
      ...env,
    });
  const others = start(['edge', 'user', 'presence'], ports[0], {});
  const routers = chats.map((port, at) => start(['chat'], ports[at + 1], { CHAT_PORT: `${port}` }));
  const all = [others, ...routers];
  const died = Promise.race(all.map((process) => process.died));
  died.catch(() => {});
  const ready = Promise.all(ports.map((admin) => untilReady(`http://127.0.0.1:${admin}/readyz`)));
  await Promise.race([ready, died]).catch((error: Error) => {
    throw new Error(`the mesh did not start: ${error.message}\n${all.map(({ tail }) => tail).join('\n')}`);
  });
  await sleep(HANDED_ROUND_MS);
  const readyMs = performance.now() - began;
  const users = new MeshUsers(`127.0.0.1:${user}`, secret);
  return {
    target: 'mesh-on-engines',
    process: {
      died,
      get tail() {
        return all.map(({ tail }) => tail).join('\n');
      },
    },
    pids: routers.map(({ pid }) => pid),
    url: `ws://127.0.0.1:${edge}/connect`,
    receipts: true,
    readyMs,
    createUsers: (count) => users.create(count),
    addDevices: (account, count) => users.addDevices(account, count),
    async [Symbol.asyncDispose]() {
      await users[Symbol.asyncDispose]();
      await Promise.all(all.map((process) => process.stop()));
      directory[Symbol.dispose]();
    },
  };
}

async function finish(server: ServerProcess, options: StartOptions, directory: DataDirectory): Promise<void> {
  try {
    await server.stop();
  } finally {
    if (!options.directory) directory[Symbol.dispose]();
  }
}

/** Node's options and the program, exactly as in `npm start`. */
function meshArgs(root = ROOT): string[] {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: { start: string } };
  const [node, ...args] = scripts.start.split(' ');
  const program = args.pop();
  if (node !== 'node' || program === undefined) throw new Error(`cannot tell what npm start runs: ${scripts.start}`);
  return [...args, join(root, program)];
}

function nodeArgs({ profile, collectOnSignal }: StartOptions): string[] {
  const args = collectOnSignal ? ['--expose-gc', '--import', COLLECT_ON_SIGNAL] : [];
  if (profile) args.push('--cpu-prof', `--cpu-prof-dir=${dirname(profile)}`, `--cpu-prof-name=${basename(profile)}`);
  return args;
}

async function untilReady(url: string): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  while (performance.now() < deadline) {
    const response = await fetch(url).catch(() => undefined);
    if (response?.ok) return;
    await sleep(READY_POLL_MS);
  }
  throw new Error(`not ready after ${READY_TIMEOUT_MS / 1000} s`);
}
