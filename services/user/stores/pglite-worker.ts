import { existsSync, fsyncSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parentPort, workerData } from 'node:worker_threads';
import { PGlite, type PGliteOptions } from '@electric-sql/pglite';
import { NodeFS } from '@electric-sql/pglite/nodefs';

/** One statement; the next one is sent after its answer. Undefined closes the database. */
export type Statement = { readonly sql: string; readonly parameters: readonly unknown[] } | undefined;

/** What the thread says: once whether the database is open, then an answer per statement, or that it has to end. */
export type Said =
  | { readonly opened: true }
  /** Why the database is not opened, with the name of its directory. */
  | { readonly refused: string }
  | { readonly rows: unknown[]; readonly affectedRows: number }
  /** What PostgreSQL answers; without its parameters and details, which may be secret and would end in a log. */
  | { readonly failed: { readonly message: string; readonly code?: string; readonly severity?: string } }
  | { readonly dying: string };

/**
 * PGlite turns fsync off and writes with fdatasync, which its file system ignores: both are put right here, so that a
 * commit is on the disk before it is answered.
 */
const START_PARAMETERS = [
  ...PGlite.defaultStartParams.filter((parameter) => parameter !== '-F'),
  ...['-c', 'fsync=on', '-c', 'wal_sync_method=fsync'],
];

interface Stream {
  readonly nfd: number;
  readonly path: string;
}

/** The operations of the host's files that are of interest here, as Emscripten calls them. */
interface StreamOperations {
  fsync?: (stream: Stream) => number;
  write: (stream: Stream, ...rest: unknown[]) => number;
}

/**
 * Files of the host that reach its disk when PostgreSQL asks for it. PostgreSQL ends itself when its log cannot be
 * written, but as there is no process to end, it turns in a circle instead: so the engine is told before it does.
 */
class SyncingFiles extends NodeFS {
  override async init(...parameters: Parameters<NodeFS['init']>): ReturnType<NodeFS['init']> {
    const { emscriptenOpts } = await super.init(...parameters);
    const hook = (module: unknown) => {
      const { stream_ops: operations } = (module as { NODEFS: { stream_ops: StreamOperations } }).NODEFS;
      const { write } = operations;
      operations.write = (stream, ...rest) => {
        try {
          return write(stream, ...rest);
        } catch (error) {
          if (stream.path.includes('/pg_wal/')) say({ dying: `its log ${stream.path} cannot be written` });
          throw error;
        }
      };
      operations.fsync = ({ nfd, path }) => {
        try {
          fsyncSync(nfd);
          return 0;
        } catch (error) {
          say({ dying: `its file ${path} cannot be flushed: ${(error as Error).message}` });
          throw error;
        }
      };
    };
    return { emscriptenOpts: { ...emscriptenOpts, preRun: [...[emscriptenOpts.preRun ?? []].flat(), hook] } };
  }
}

const port = parentPort;
if (port) await serve((workerData as { directory: string }).directory);

function say(said: Said): void {
  port?.postMessage(said);
}

async function serve(directory: string): Promise<void> {
  let database: PGlite;
  try {
    if (!existsSync(directory)) await create(directory);
    database = await openExisting(directory);
  } catch (error) {
    say({ refused: (error as Error).message });
    port?.close();
    return;
  }
  say({ opened: true });
  port?.on('message', async (statement: Statement) => {
    if (!statement) {
      await database.close();
      port.close();
      return;
    }
    try {
      const { rows, affectedRows = 0 } = await database.query(statement.sql, [...statement.parameters]);
      say({ rows, affectedRows });
    } catch (error) {
      const { message, code, severity } = error as Error & { code?: string; severity?: string };
      say({ failed: { message, ...(code !== undefined && { code }), ...(severity !== undefined && { severity }) } });
    }
  });
}

/** Copies the template, which a fresh installation takes long to compute; without it, it is computed. */
async function create(directory: string): Promise<void> {
  // Renamed only when complete, so that an interrupted creation starts anew and is never taken for a database.
  const partial = `${directory}.partial`;
  const template = templateDirectory();
  try {
    await rm(partial, { recursive: true, force: true });
    if (template === undefined) {
      await (await start(partial)).close();
      await flushAll(partial);
    } else {
      await mkdir(dirname(directory), { recursive: true });
      await copyDurably(template, partial);
    }
    await rename(partial, directory);
    await flush(dirname(directory));
  } catch (cause) {
    throw new Error(`cannot create a database in ${directory}: ${(cause as Error).message}`, { cause });
  }
}

/** Copies a directory; everything is on the disk when it resolves. */
async function copyDurably(from: string, to: string): Promise<void> {
  await mkdir(to, { mode: 0o700 });
  const entries = await readdir(from, { withFileTypes: true });
  await Promise.all(
    entries.map(async (entry) => {
      const [source, target] = [join(from, entry.name), join(to, entry.name)];
      if (entry.isDirectory()) return await copyDurably(source, target);
      await copyFile(source, target);
      await flush(target);
    }),
  );
  await flush(to);
}

/** What PostgreSQL has not flushed of a directory: it does not care about names of files, and about some files. */
async function flushAll(directory: string): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true });
  const paths = entries.map((entry) => [entry, join(directory, entry.name)] as const);
  await Promise.all(paths.map(([entry, path]) => (entry.isDirectory() ? flushAll(path) : flush(path))));
  await flush(directory);
}

async function flush(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function openExisting(directory: string): Promise<PGlite> {
  const damaged = (why: string, cause?: unknown) =>
    new Error(`the database directory ${directory} ${why}; restore it from a backup, or move it away to start empty`, {
      cause,
    });
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

async function start(directory: string, options: PGliteOptions = {}): Promise<PGlite> {
  return await PGlite.create({ ...options, fs: new SyncingFiles(directory), startParams: START_PARAMETERS });
}

/** The directory of an empty database of this version of PGlite, where the build has made one (scripts/database-template.mjs). */
function templateDirectory(): string | undefined {
  const entry = createRequire(import.meta.url).resolve('@electric-sql/pglite');
  const { version } = JSON.parse(readFileSync(join(dirname(entry), '..', 'package.json'), 'utf8'));
  const directory = fileURLToPath(new URL(`../database-template-${version}-2`, import.meta.url));
  return existsSync(directory) ? directory : undefined;
}
