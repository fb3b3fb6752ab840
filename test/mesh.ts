import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { addressToCall, createClient, createLogger } from '@chatmesh/mesh';
import { freePorts } from '#engines';

export const SERVICES = ['user', 'presence', 'chat', 'edge'] as const;
export type ServiceName = (typeof SERVICES)[number];

/** A user with one device, as `user create` makes them. */
export interface TestUser {
  readonly userId: string;
  readonly deviceId: string;
  readonly contactNumber: string;
  readonly token: string;
}

const MAIN = fileURLToPath(new URL('../../services/dist/main.js', import.meta.url));
/** Compiles the user database in its quickest way: code that would be faster later costs each start a second of the processor. */
const FLAGS = ['--enable-source-maps', '--liftoff-only'];
/** A start takes a second or two; much longer on a machine that is busy with other things. */
const READY_MS = 60_000;
const HOST = '127.0.0.1';
const silent = createLogger({ name: 'test', level: 'silent' });

/** One process of the mesh: all services, or some. */
export class MeshProcess {
  readonly services: readonly ServiceName[];
  readonly adminPort: number;
  readonly #env: NodeJS.ProcessEnv;
  readonly #within: readonly string[];
  #child: ChildProcess | undefined;
  #output = '';

  /** @param within a command that becomes the command that follows it, as `env` does. */
  constructor(
    services: readonly ServiceName[],
    adminPort: number,
    env: NodeJS.ProcessEnv,
    within: readonly string[] = [],
  ) {
    this.services = services;
    this.#within = within;
    this.adminPort = adminPort;
    this.#env = env;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** What the process has printed so far, all starts together. */
  get output(): string {
    return this.#output;
  }

  /** Starts the process, this once with these variables on top; resolves when it says that it is ready. */
  async start(env: NodeJS.ProcessEnv = {}): Promise<void> {
    this.launch(env);
    await this.ready();
  }

  /** Starts the process and does not wait. */
  launch(env: NodeJS.ProcessEnv = {}): void {
    const names = this.services.length === SERVICES.length ? [] : this.services;
    const command = [...this.#within, process.execPath, ...FLAGS, MAIN, ...names];
    const child = spawn(command[0] as string, command.slice(1), {
      env: { ...this.#env, ...env, ADMIN_PORT: String(this.adminPort) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#child = child;
    // Where the command is not there, its end says so.
    child.on('error', (error) => {
      this.#output += `${error}\n`;
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-200_000);
      });
    }
  }

  /** Resolves when every service of the process is ready. */
  async ready(): Promise<void> {
    await until(
      async () => {
        if (this.#child?.exitCode !== null || this.#child.pid === undefined)
          throw new Error(`the mesh ended at start:\n${this.#output}`);
        const response = await fetch(
          `http://${addressToCall(this.#env.ADMIN_HOST ?? HOST, this.adminPort)}/readyz`,
        ).catch(() => undefined);
        if (response?.status !== 200) return false;
        const { pid } = (await response.json()) as { pid: number };
        if (pid !== this.pid) throw new Error(`another process, ${pid}, has the port ${this.adminPort}`);
        return true;
      },
      { timeoutMs: READY_MS, what: () => `readiness; its output:\n${this.#output}` },
    );
  }

  /** Sends a signal and waits for the end; resolves with the exit code, null after a signal that killed. */
  async end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? null;
    const exited = once(child, 'exit');
    child.kill(signal);
    const [code] = (await exited) as [number | null];
    return code;
  }

  /** Sends a signal and goes on. */
  signal(signal: NodeJS.Signals): void {
    this.#child?.kill(signal);
  }

  /** Resolves with the exit code when the process ends by itself. */
  async exited(): Promise<number | null> {
    const child = this.#child;
    if (!child) return null;
    if (child.exitCode !== null) return child.exitCode;
    const [code] = (await once(child, 'exit')) as [number | null];
    return code;
  }
}

/** A mesh of real processes on free ports, with its data in a directory of its own. */
export class TestMesh implements AsyncDisposable {
  readonly url: string;
  readonly httpUrl: string;
  readonly h2Url: string;
  readonly userAddress: string;
  readonly chatAddress: string;
  readonly presenceAddress: string;
  readonly dataDir: string;
  readonly processes: readonly MeshProcess[];
  #nextNumber = 15_550_000_000;

  private constructor(dataDir: string, env: NodeJS.ProcessEnv, processes: MeshProcess[]) {
    const address = (host: string | undefined, port: string) => addressToCall(host ?? HOST, Number(env[port]));
    this.dataDir = dataDir;
    this.url = `ws://${address(env.EDGE_HOST, 'EDGE_PORT')}/connect`;
    this.httpUrl = `http://${address(env.EDGE_HOST, 'EDGE_PORT')}`;
    this.h2Url = `http://${address(env.EDGE_HOST, 'EDGE_H2_PORT')}`;
    this.chatAddress = address(env.MESH_HOST, 'CHAT_PORT');
    this.userAddress = address(env.MESH_HOST, 'USER_PORT');
    this.presenceAddress = address(env.MESH_HOST, 'PRESENCE_PORT');
    this.processes = processes;
  }

  /**
   * Starts a mesh: by default in one process, with `split` each service in its own.
   *
   * @param options.env variables on top of the test defaults (no rate limit).
   */
  static async start(options: { split?: boolean; env?: NodeJS.ProcessEnv } = {}): Promise<TestMesh> {
    const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-'));
    const names = ['EDGE_PORT', 'EDGE_H2_PORT', 'CHAT_PORT', 'USER_PORT', 'PRESENCE_PORT'];
    const groups: (readonly ServiceName[])[] = options.split ? SERVICES.map((name) => [name]) : [SERVICES];
    const free = await freePorts(names.length + groups.length);
    const ports = Object.fromEntries(names.map((name, i) => [name, free[i] as number]));
    const env: NodeJS.ProcessEnv = {
      PATH: process.env.PATH,
      DATA_DIR: dataDir,
      SEND_RATE: '0',
      LOG_LEVEL: 'info',
      EDGE_HOST: HOST,
      ...Object.fromEntries(Object.entries(ports).map(([name, port]) => [name, String(port)])),
      ...options.env,
    };
    const processes = groups.map((group, i) => new MeshProcess(group, free[names.length + i] as number, env));
    const mesh = new TestMesh(dataDir, env, processes);
    try {
      await Promise.all(processes.map((p) => p.start()));
    } catch (error) {
      await mesh[Symbol.asyncDispose]();
      throw error;
    }
    return mesh;
  }

  /** The process that runs a service. */
  process(name: ServiceName): MeshProcess {
    return this.processes.find((p) => p.services.includes(name)) as MeshProcess;
  }

  /** Creates users with a device and a token each. */
  async users(count: number, options: { ttlSeconds?: number } = {}): Promise<TestUser[]> {
    const client = createClient(DirectoryService, { address: this.userAddress, logger: silent });
    try {
      const contactNumber = `+${this.#nextNumber}`;
      this.#nextNumber += count;
      const { users } = await client.createUsers({
        contactNumber,
        name: 'Test',
        count,
        tokenTtlSeconds: options.ttlSeconds ?? 0,
      });
      return users.map(({ userId, deviceId, contactNumber: number, token }) => ({
        userId,
        deviceId,
        contactNumber: number,
        token,
      }));
    } finally {
      client.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.processes.map((p) => p.end('SIGKILL')));
    rmSync(this.dataDir, { recursive: true, force: true });
  }
}

/** Waits for a condition, looking often. @throws when it does not come true in time. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  options: { timeoutMs?: number; what?: string | (() => string) } = {},
): Promise<void> {
  const { timeoutMs = 45_000, what = 'the condition' } = options;
  const end = Date.now() + timeoutMs;
  for (;;) {
    if (await condition()) return;
    if (Date.now() > end)
      throw new Error(`waited ${timeoutMs} ms in vain for ${typeof what === 'function' ? what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}
