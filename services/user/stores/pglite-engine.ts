import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type EngineOperation, engineOperation, type Logger, MeshError, Metrics } from '@chatmesh/mesh';
import { Kysely } from 'kysely';
import { type SingleSession, singleSessionDialect } from './pglite-dialect.js';
import type { Said, Statement } from './pglite-worker.js';
import type { Schema } from './schema.js';
import type { Queries, SqlEngine } from './sql-user-store.js';

const PROGRAM = fileURLToPath(new URL('./pglite-worker.js', import.meta.url));
const REOPEN_MS = 1_000;
/** No statement of the store takes a second; an engine that is silent for so long will not answer any more. */
const STATEMENT_MS = 15_000;
const CLOSE_MS = 3_000;
/** SQLSTATE classes of an engine in trouble: no room, an error from the system below it, or one in itself. */
const TROUBLE = /^(53|58|XX)/;

type Answer = Extract<Said, { rows: unknown[] }>;

/**
 * PostgreSQL in a thread of this process, on the files in one directory, for which the caller holds a lock. After an
 * error that ends it, such as a full disk, it answers `unavailable` and opens the files again until that succeeds.
 */
export class PgliteEngine implements SqlEngine {
  readonly db: Kysely<Schema>;
  readonly shared = false;
  readonly #directory: string;
  readonly #logger: Logger;
  readonly #statements: EngineOperation;
  readonly #closing = new AbortController();
  #thread: DatabaseThread | undefined;
  #reopening: Promise<void> | undefined;

  private constructor(directory: string, thread: DatabaseThread, logger: Logger, metrics: Metrics) {
    this.#directory = directory;
    this.#thread = thread;
    this.#logger = logger;
    this.#statements = engineOperation(metrics, 'pglite', 'statement');
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
  static async open(
    directory: string,
    logger: Logger,
    metrics = new Metrics({ processMetrics: false }),
  ): Promise<PgliteEngine> {
    return new PgliteEngine(directory, await DatabaseThread.open(directory), logger, metrics);
  }

  get ready(): boolean {
    return this.#thread !== undefined;
  }

  lookUp<T>(ask: (queries: Queries) => Promise<T>): Promise<T> {
    return ask(this.db);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.db.destroy();
    // Kysely does not close what it has never asked anything.
    await this.#close();
  }

  async #query(sql: string, parameters: readonly unknown[]): Promise<Answer> {
    const thread = this.#thread;
    if (!thread) throw new MeshError('unavailable', 'the user database is not available');
    const startedAtMs = performance.now();
    let ok = true;
    try {
      return await thread.query({ sql, parameters });
    } catch (cause) {
      const known = cause instanceof DatabaseError && !cause.fatal;
      if (known && !TROUBLE.test(cause.code)) throw cause;
      ok = false;
      this.#logger.error({ reason: (cause as Error).message, directory: this.#directory }, 'the user database failed');
      if (!known) this.#reopen(thread);
      throw new MeshError('unavailable', 'the user database failed', { cause });
    } finally {
      this.#statements.ended(startedAtMs, ok);
    }
  }

  #reopen(broken: DatabaseThread): void {
    this.#thread = undefined;
    const { signal } = this.#closing;
    const reopening = (async () => {
      await broken.terminate();
      while (!signal.aborted) {
        await sleep(REOPEN_MS, undefined, { signal }).catch(() => {});
        if (signal.aborted) return;
        try {
          this.#thread = await DatabaseThread.open(this.#directory);
          this.#logger.info({ directory: this.#directory }, 'the user database is open again');
          return;
        } catch (error) {
          this.#logger.warn({ err: error, directory: this.#directory }, 'the user database does not open yet');
        }
      }
    })();
    this.#reopening = reopening;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    await this.#reopening;
    const thread = this.#thread;
    this.#thread = undefined;
    await thread?.close();
  }
}

/** PostgreSQL's refusal of a statement. */
class DatabaseError extends Error {
  /** SQLSTATE; empty where the failure is not PostgreSQL's own. */
  readonly code: string;
  /** Whether the database has ended with it. */
  readonly fatal: boolean;

  constructor({ message, code = '', severity }: Extract<Said, { failed: object }>['failed']) {
    super(message);
    this.code = code;
    this.fatal = code === '' || severity === 'PANIC' || severity === 'FATAL';
  }
}

/** One life of the database. */
class DatabaseThread {
  readonly #worker: Worker;
  #waiting: { resolve(answer: Answer): void; reject(error: Error): void } | undefined;
  /** Why it answers nothing any more. */
  #ended: Error | undefined;

  private constructor(worker: Worker) {
    this.#worker = worker;
    worker.on('message', (said: Said) => this.#hear(said));
    worker.on('error', (error) => this.#end(error));
    worker.on('exit', () => this.#end(new Error('its thread has ended')));
  }

  /** @throws MeshError `failed_precondition` naming the directory. */
  static async open(directory: string): Promise<DatabaseThread> {
    const worker = new Worker(PROGRAM, { workerData: { directory } });
    try {
      const said = await firstWords(worker);
      if (said === undefined) return new DatabaseThread(worker);
      throw new Error(said);
    } catch (error) {
      await worker.terminate();
      throw new MeshError('failed_precondition', (error as Error).message, { cause: error });
    }
  }

  /** One at a time. @throws DatabaseError, or another error when the database has ended. */
  async query(statement: Statement): Promise<Answer> {
    if (this.#ended) throw this.#ended;
    const timer = setTimeout(() => this.#end(new Error(`no answer within ${STATEMENT_MS} ms`)), STATEMENT_MS);
    try {
      return await new Promise<Answer>((resolve, reject) => {
        this.#waiting = { resolve, reject };
        this.#worker.postMessage(statement);
      });
    } finally {
      clearTimeout(timer);
      this.#waiting = undefined;
    }
  }

  /** Closes the database in order. */
  async close(): Promise<void> {
    if (this.#ended) return await this.terminate();
    const exit = once(this.#worker, 'exit');
    this.#worker.postMessage(undefined satisfies Statement);
    await Promise.race([exit, sleep(CLOSE_MS, undefined, { ref: false })]);
    await this.terminate();
  }

  /** Ends the thread wherever it is. */
  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #hear(said: Said): void {
    if ('rows' in said) this.#waiting?.resolve(said);
    else if ('failed' in said) this.#waiting?.reject(new DatabaseError(said.failed));
    else if ('dying' in said) this.#end(new Error(said.dying));
  }

  #end(reason: Error): void {
    this.#ended ??= reason;
    this.#waiting?.reject(this.#ended);
  }
}

/** Undefined once the database is open, or why it is not. */
async function firstWords(worker: Worker): Promise<string | undefined> {
  const ended = once(worker, 'exit').then((): [Said] => [{ refused: 'the thread of the user database has ended' }]);
  const [said] = await Promise.race([once(worker, 'message') as Promise<[Said]>, ended]);
  if ('refused' in said) return said.refused;
  return 'dying' in said ? said.dying : undefined;
}
