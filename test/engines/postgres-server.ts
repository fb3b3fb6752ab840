import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLogger, type Logger } from '@chatmesh/mesh';
import { SqlPool } from '@chatmesh/mesh/sql';
import { freePorts } from '#engines';
import { until } from '../mesh.js';

export const silent = createLogger({ name: 'test', level: 'silent' });
export const PASSWORD = 'a secret of the tests';

/** The shared server's database, which tests only use to make databases of their own. */
export function sharedUrl(): string {
  const url = process.env.DATABASE_URL;
  if (!url)
    throw new Error('this test needs PostgreSQL: set DATABASE_URL to a database of a user that may create others');
  return url;
}

/** A new database on the server of `url`. */
export async function newDatabase(url: string): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await statement(url, `create database ${name}`);
  const own = new URL(url);
  own.pathname = `/${name}`;
  return { url: own.href, drop: async () => void (await statement(url, `drop database ${name} with (force)`)) };
}

/** Runs one statement on a connection of its own. */
export async function statement<R>(url: string, sql: string, parameters: readonly unknown[] = []): Promise<R[]> {
  const pool = new SqlPool({ url, max: 1, applicationName: 'test', logger: silent, statementMs: 30_000 });
  try {
    return await pool.query<R>(sql, parameters);
  } finally {
    await pool.end();
  }
}

/** A logger, and what it has been told. */
export function listening(): { logger: Logger; lines: { level: string; msg: string; reason?: string }[] } {
  const lines: { level: string; msg: string; reason?: string }[] = [];
  const destination = { write: (line: string) => void lines.push(JSON.parse(line)) };
  return { logger: createLogger({ name: 'test', level: 'info', destination }), lines };
}

/** A PostgreSQL server of a test's own, that may be frozen and killed. Its superuser is `chatmesh`, its password {@link PASSWORD}. */
export class PostgresServer {
  readonly directory: string;
  readonly port: number;
  readonly #programs: string;
  readonly #as: { uid?: number; gid?: number };
  #process: ChildProcess | undefined;

  private constructor(directory: string, port: number, as: { uid?: number; gid?: number }) {
    this.directory = directory;
    this.port = port;
    this.#programs = programs();
    this.#as = as;
  }

  /** An empty server; not started yet. */
  static async create(settings: readonly string[] = []): Promise<PostgresServer> {
    const server = await PostgresServer.#reserve();
    const passwordFile = join(server.directory, 'password');
    writeFileSync(passwordFile, PASSWORD);
    server.#run('initdb', ['-D', server.data, '-U', 'chatmesh', '-A', 'scram-sha-256', '--pwfile', passwordFile]);
    appendFileSync(join(server.data, 'pg_hba.conf'), 'host replication all 127.0.0.1/32 scram-sha-256\n');
    for (const line of settings) appendFileSync(join(server.data, 'postgresql.conf'), `${line}\n`);
    return server;
  }

  /** A physical standby of a server that runs; not started yet. */
  static async standbyOf(primary: PostgresServer): Promise<PostgresServer> {
    const server = await PostgresServer.#reserve();
    server.#run('pg_basebackup', [
      '-D',
      server.data,
      '-d',
      primary.url('postgres'),
      '-R',
      '-X',
      'stream',
      '-c',
      'fast',
    ]);
    return server;
  }

  static async #reserve(): Promise<PostgresServer> {
    const directory = mkdtempSync(join(tmpdir(), 'chatmesh-postgres-'));
    const as: { uid?: number; gid?: number } = {};
    if (process.getuid?.() === 0) {
      // The server refuses to run as root, so it runs as the package's own user.
      const id = (what: string) => Number(execFileSync('id', [what, 'postgres'], { encoding: 'utf8' }));
      Object.assign(as, { uid: id('-u'), gid: id('-g') });
      execFileSync('chown', ['postgres', directory]);
    }
    chmodSync(directory, 0o700);
    const [port = 0] = await freePorts(1);
    return new PostgresServer(directory, port, as);
  }

  get data(): string {
    return join(this.directory, 'data');
  }

  url(database: string, { password = PASSWORD, user = 'chatmesh', query = '' } = {}): string {
    const credentials = password === '' ? user : `${user}:${encodeURIComponent(password)}`;
    return `postgres://${credentials}@127.0.0.1:${this.port}/${database}${query}`;
  }

  /** Starts it; resolves when it accepts connections. */
  async start(): Promise<void> {
    const parameters = ['-D', this.data, '-h', '127.0.0.1', '-p', String(this.port), '-k', this.directory];
    let said = '';
    const child = spawn(join(this.#programs, 'postgres'), parameters, {
      ...this.#as,
      cwd: this.directory,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-4_000);
    });
    this.#process = child;
    await until(
      async () => {
        if (child.exitCode !== null) throw new Error(`PostgreSQL ended at its start:\n${said}`);
        return await statement(this.url('postgres'), 'select 1').then(
          () => true,
          () => false,
        );
      },
      { what: () => `PostgreSQL:\n${said}` },
    );
  }

  /** Stops every process of the server where it is, as a machine without time does, until {@link thaw}. */
  freeze(): void {
    // The server first: it starts no further ones then.
    for (const pid of [this.#pid, ...this.#children()]) process.kill(pid, 'SIGSTOP');
  }

  thaw(): void {
    for (const pid of [...this.#children(), this.#pid]) process.kill(pid, 'SIGCONT');
  }

  /** Kills every process of the server. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    const pids = [this.#pid, ...this.#children()];
    for (const pid of pids) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // Ended by itself when the server did.
      }
    }
    await exited;
    // The next server refuses to start while one of them holds its memory.
    await until(() => pids.every((pid) => !existsSync(`/proc/${pid}`)), { what: 'the end of its processes' });
  }

  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  get #pid(): number {
    const pid = this.#process?.pid;
    if (pid === undefined) throw new Error('the server does not run');
    return pid;
  }

  #children(): number[] {
    const children = readFileSync(`/proc/${this.#pid}/task/${this.#pid}/children`, 'utf8');
    return children.split(' ').filter(Boolean).map(Number);
  }

  #run(program: string, parameters: string[]): void {
    execFileSync(join(this.#programs, program), parameters, {
      ...this.#as,
      cwd: this.directory,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  }
}

/** Where Debian and others put the server's programs, the newest version of them. */
function programs(): string {
  const versions = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql').sort((a, b) => +a - +b) : [];
  const folders = [
    ...versions.map((version) => `/usr/lib/postgresql/${version}/bin`).reverse(),
    '/usr/local/bin',
    '/usr/bin',
  ];
  const folder = folders.find((candidate) => existsSync(join(candidate, 'initdb')));
  if (folder === undefined) throw new Error('this test needs the PostgreSQL server: apt-get install postgresql');
  return folder;
}
