import { existsSync, fsyncSync, readFileSync } from 'node:fs';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Logger, MeshError } from '@chatmesh/mesh';
import { PGlite, type PGliteOptions } from '@electric-sql/pglite';
import { NodeFS } from '@electric-sql/pglite/nodefs';
import { Kysely } from 'kysely';
import { type SingleSession, singleSessionDialect } from './pglite-dialect.js';
import type { Schema } from './schema.js';
import type { SqlEngine } from './sql-user-store.js';

/**
 * PGlite turns fsync off and writes with fdatasync, which its file system ignores: both are put right here, so that a
 * commit is on the disk before it is answered.
 */
const START_PARAMETERS = [
  ...PGlite.defaultStartParams.filter((parameter) => parameter !== '-F'),
  ...['-c', 'fsync=on', '-c', 'wal_sync_method=fsync'],
];
const REOPEN_MS = 1_000;
/** SQLSTATE classes of an engine in trouble: no room, an error from the system below it, or one in itself. */
const TROUBLE = /^(53|58|XX)/;

/**
 * PostgreSQL in this process, on the files in one directory, for which the caller holds a lock. After an error that ends
 * it, such as a full disk, it answers `unavailable` and opens the files again until that succeeds.
 */
export class PgliteEngine implements SqlEngine {
  readonly db: Kysely<Schema>;
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  #database: PGlite | undefined;
  #reopening: Promise<void> | undefined;

  private constructor(directory: string, database: PGlite, logger: Logger) {
    this.#directory = directory;
    this.#database = database;
    this.#logger = logger;
    const session: SingleSession = {
      query: (sql, parameters) => this.#query(sql, parameters),
      close: () => this.#close(),
    };
    this.db = new Kysely<Schema>({ dialect: singleSessionDialect(session) });
  }

  /**
   * Opens the database in `directory`, and creates it when there is none.
   *
   * @throws MeshError `failed_precondition` naming the directory when it is damaged; nothing is ever reset.
   */
  static async open(directory: string, logger: Logger): Promise<PgliteEngine> {
    if (!existsSync(directory)) await create(directory);
    return new PgliteEngine(directory, await openExisting(directory), logger);
  }

  get ready(): boolean {
    return this.#database !== undefined;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.db.destroy();
  }

  async #query(sql: string, parameters: readonly unknown[]): Promise<{ rows: unknown[]; affectedRows: number }> {
    const database = this.#database;
    if (!database) throw new MeshError('unavailable', 'the user database is not available');
    try {
      const { rows, affectedRows = 0 } = await database.query(sql, [...parameters]);
      return { rows, affectedRows };
    } catch (cause) {
      const { code, severity } = cause as { code?: string; severity?: string };
      // What is no answer of PostgreSQL's own is the failure of the program that runs it.
      const ended = code === undefined || severity === 'PANIC' || severity === 'FATAL';
      if (!ended && !TROUBLE.test(code)) throw cause;
      this.#logger.error({ err: cause, directory: this.#directory }, 'the user database failed');
      if (ended) this.#reopen();
      throw new MeshError('unavailable', 'the user database failed', { cause });
    }
  }

  #reopen(): void {
    // Left to the garbage collector: it answers nothing any more, not even a close.
    this.#database = undefined;
    const { signal } = this.#closing;
    this.#reopening ??= (async () => {
      while (!this.#database && !signal.aborted) {
        await sleep(REOPEN_MS, undefined, { signal }).catch(() => {});
        if (signal.aborted) return;
        try {
          this.#database = await openExisting(this.#directory);
          this.#logger.info({ directory: this.#directory }, 'the user database is open again');
        } catch (error) {
          this.#logger.warn({ err: error, directory: this.#directory }, 'the user database does not open yet');
        }
      }
    })().finally(() => {
      this.#reopening = undefined;
    });
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    await this.#reopening;
    const database = this.#database;
    this.#database = undefined;
    await database?.close();
  }
}

/** The template is what a fresh installation takes long to compute; without it, it is computed. */
async function create(directory: string): Promise<void> {
  // Renamed only when complete, so that an interrupted creation starts anew and is never taken for a database.
  const partial = `${directory}.partial`;
  await rm(partial, { recursive: true, force: true });
  const template = templateFile();
  const options: PGliteOptions = template === undefined ? {} : { loadDataDir: new Blob([await readFile(template)]) };
  try {
    const database = await start(partial, options);
    await database.close();
    await rename(partial, directory);
    const parent = await open(dirname(directory));
    await parent.sync();
    await parent.close();
  } catch (cause) {
    const why = (cause as Error).message;
    throw new MeshError('failed_precondition', `cannot create a database in ${directory}: ${why}`, { cause });
  }
}

async function openExisting(directory: string): Promise<PGlite> {
  const damaged = (why: string, cause?: unknown) =>
    new MeshError(
      'failed_precondition',
      `the database directory ${directory} ${why}; restore it from a backup, or move it away to start empty`,
      { cause },
    );
  if (!existsSync(join(directory, 'PG_VERSION'))) throw damaged('is damaged: its file PG_VERSION is missing');
  const said: string[] = [];
  try {
    return await start(directory, {
      onStderr: (line) => {
        said.push(line);
        return true;
      },
    });
  } catch (cause) {
    const reason = said.findLast((line) => /FATAL|PANIC|ERROR/.test(line)) ?? (cause as Error).message;
    throw damaged(`cannot be opened (${reason.trim()})`, cause);
  }
}

async function start(directory: string, options: PGliteOptions): Promise<PGlite> {
  return await PGlite.create({ ...options, fs: new SyncingFiles(directory), startParams: START_PARAMETERS });
}

/** Files of the host that reach its disk when PostgreSQL asks for it. */
class SyncingFiles extends NodeFS {
  override async init(...parameters: Parameters<NodeFS['init']>): ReturnType<NodeFS['init']> {
    const { emscriptenOpts } = await super.init(...parameters);
    const preRun = emscriptenOpts.preRun ?? [];
    const hook = (module: unknown) => {
      const { NODEFS } = module as { NODEFS: { stream_ops: { fsync?: (stream: { nfd: number }) => number } } };
      NODEFS.stream_ops.fsync = ({ nfd }) => {
        fsyncSync(nfd);
        return 0;
      };
    };
    return { emscriptenOpts: { ...emscriptenOpts, preRun: [...[preRun].flat(), hook] } };
  }
}

/** An empty database of this version of PGlite, where the build has made one (scripts/database-template.mjs). */
function templateFile(): string | undefined {
  const folder = fileURLToPath(new URL('..', import.meta.url));
  const file = join(folder, `database-template-${pgliteVersion()}.tar.gz`);
  return existsSync(file) ? file : undefined;
}

function pgliteVersion(): string {
  const entry = createRequire(import.meta.url).resolve('@electric-sql/pglite');
  const { version } = JSON.parse(readFileSync(join(dirname(entry), '..', 'package.json'), 'utf8'));
  return version;
}
