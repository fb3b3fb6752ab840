import { Pool, type PoolClient, type PoolConfig } from 'pg';
import { sleep } from './abort.js';
import { readCa } from './ca-file.js';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { type Logger, Metrics } from './observe.js';
import { SqlError, sqlFailure, unavailable } from './sql-errors.js';
import { type PostgresTarget, postgresTarget } from './sql-url.js';

export { SqlError };

/** For a free connection, and for a new one, until it is ready for statements. */
const CONNECT_MS = 3_000;
/** No statement of a service takes a second. */
const STATEMENT_MS = 4_000;
/** The server ends a late statement; it is given up here when the server says nothing at all. */
const SILENCE_MS = 500;
/** A frozen process must not keep its locks. */
const IDLE_IN_TRANSACTION_MS = 10_000;
const IDLE_MS = 60_000;
/** Whoever is more than these ahead in the queue would wait in vain. */
const MAX_WAITING = 5_000;
const WATCH_MS = 1_000;
const CLOSE_MS = 2_000;

export interface SqlPoolOptions {
  /** See isPostgresUrl in sql-url.ts. Without sslmode: verify-full where there is a `tlsCaFile`, else disable. */
  readonly url: string;
  /** Connections at most. */
  readonly max: number;
  /** PEM file of the authorities that are trusted for the server's certificate; the system's unless given. */
  readonly tlsCaFile?: string | undefined;
  /** Shown by PostgreSQL for each connection. */
  readonly applicationName: string;
  readonly logger: Logger;
  readonly metrics?: Metrics | undefined;
  /** For one statement, milliseconds. */
  readonly statementMs?: number;
}

/** Rows as the driver reads them: timestamps as Date, int8 and numeric as text, arrays as arrays. */
export interface SqlResult<R> {
  readonly command: string;
  readonly rowCount: number | null;
  readonly rows: R[];
}

/**
 * Connections to one PostgreSQL database, in the shape that Kysely's PostgresDialect takes (without cursors). Every wait has a deadline; all times
 * are UTC. A statement that cannot be carried out now fails with MeshError `unavailable`, one that PostgreSQL refuses with
 * SqlError. Wrong credentials, a missing database and an untrusted certificate are `failed_precondition` with a sentence for
 * the operator, until the first connection has succeeded: after it they are an outage like any other.
 */
export class SqlPool {
  readonly #pool: Pool;
  readonly #target: PostgresTarget;
  readonly #logger: Logger;
  readonly #connecting: EngineOperation;
  readonly #statements: EngineOperation;
  #proven = false;
  #ready = false;
  #watching = false;
  #checking = false;
  #timer: NodeJS.Timeout | undefined;
  #ended: Promise<void> | undefined;

  /** Connects with the first statement. @throws MeshError `failed_precondition` when `tlsCaFile` cannot be read. */
  constructor(options: SqlPoolOptions) {
    const { statementMs = STATEMENT_MS, max, logger, metrics = new Metrics({ processMetrics: false }) } = options;
    this.#connecting = engineOperation(metrics, 'postgresql', 'connect');
    this.#statements = engineOperation(metrics, 'postgresql', 'statement');
    this.#target = postgresTarget(options.url, options.tlsCaFile !== undefined);
    this.#logger = logger.child({ database: `${this.#target.address}/${this.#target.database}` });
    // At connect and not as parameters of the start-up, which poolers in between refuse.
    const settings = [
      `set statement_timeout = ${statementMs}`,
      `set idle_in_transaction_session_timeout = ${IDLE_IN_TRANSACTION_MS}`,
      "set timezone = 'UTC'",
    ].join('; ');
    this.#pool = new Pool({
      connectionString: this.#target.url,
      ssl: tlsOf(this.#target, options.tlsCaFile),
      max,
      connectionTimeoutMillis: CONNECT_MS,
      idleTimeoutMillis: IDLE_MS,
      query_timeout: statementMs + SILENCE_MS,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      fallback_application_name: options.applicationName,
      onConnect: (client) => client.query(settings).then(() => {}),
    } satisfies PoolConfig);
    // Between statements; during one, the statement fails with it.
    this.#pool.on('error', () => this.#doubt());
    this.#pool.on('connect', (client) => client.on('error', () => {}));
  }

  /** Whether PostgreSQL has accepted writes when it was last asked, which after {@link watch} is at most some seconds ago. */
  get ready(): boolean {
    return this.#ready;
  }

  /** A connection, to be released. @throws MeshError */
  async connect(): Promise<SqlSession> {
    if (this.#pool.waitingCount >= MAX_WAITING)
      throw this.#failed(unavailable(this.#target, 'too many statements wait'));
    try {
      const client = await this.#connecting.time(() => this.#pool.connect());
      this.#proven = true;
      return new SqlSession(client, this.#statements, (error) => this.#failed(error));
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /** Runs one statement. @throws MeshError, SqlError */
  async query<R>(sql: string, parameters: readonly unknown[] = []): Promise<R[]> {
    const session = await this.connect();
    try {
      return (await session.query<R>(sql, parameters)).rows;
    } finally {
      session.release();
    }
  }

  /** Asks whether PostgreSQL accepts writes. @throws MeshError `unavailable` when it does not, for example as a standby. */
  async check(): Promise<void> {
    this.#checking = true;
    try {
      const [row] = await this.query<{ writes: boolean }>(
        "select current_setting('transaction_read_only') = 'off' as writes",
      );
      if (!row?.writes) throw unavailable(this.#target, 'it is read-only');
      if (!this.#ready) this.#logger.info('the database answers');
      this.#ready = true;
    } catch (error) {
      if (this.#ready) this.#logger.error({ reason: reasonOf(error) }, 'the database is not available');
      this.#ready = false;
      throw error;
    } finally {
      this.#checking = false;
    }
  }

  /** Keeps {@link ready} current, until the end. */
  watch(): void {
    this.#watching = true;
    this.#timer ??= setTimeout(() => this.#look(), WATCH_MS).unref();
  }

  /** Lets go of all connections, within two seconds also where the server is silent. Idempotent. */
  end(): Promise<void> {
    this.#watching = false;
    clearTimeout(this.#timer);
    this.#ended ??= this.#end();
    return this.#ended;
  }

  async #end(): Promise<void> {
    const closed = new AbortController();
    const late = sleep(CLOSE_MS, { signal: closed.signal }).catch(() => {});
    await Promise.race([this.#pool.end(), late]);
    closed.abort();
  }

  #look(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#watching) return;
    if (this.#checking) return this.watch();
    this.check()
      .catch(() => {})
      .finally(() => {
        if (this.#watching) this.watch();
      });
  }

  /** Something has failed: looks at once instead of at the next turn. */
  #doubt(): void {
    if (this.#ready) this.#look();
  }

  #failed(error: unknown): unknown {
    const failure = sqlFailure(error, this.#target);
    if (!(failure instanceof MeshError)) return failure;
    if (failure.kind === 'unavailable') this.#doubt();
    // Rotated credentials and a restore are mended while we run; callers wait for what is unavailable and for nothing else.
    if (failure.kind === 'failed_precondition' && this.#proven) return unavailable(this.#target, failure.message);
    return failure;
  }
}

/** One connection while it is taken out of its pool. */
export class SqlSession {
  readonly #client: PoolClient;
  readonly #statements: EngineOperation;
  readonly #failed: (error: unknown) => unknown;
  /** The failure after which nothing is known of the connection. */
  #broken: unknown;

  /** @internal */
  constructor(client: PoolClient, statements: EngineOperation, failed: (error: unknown) => unknown) {
    this.#client = client;
    this.#statements = statements;
    this.#failed = failed;
  }

  /** Runs one statement with its parameters `$1`, `$2` and so on. @throws MeshError, SqlError */
  async query<R>(sql: string, parameters: readonly unknown[] = []): Promise<SqlResult<R>> {
    if (this.#broken) throw this.#broken;
    const startedAtMs = performance.now();
    try {
      return (await this.#client.query({ text: sql, values: [...parameters] })) as unknown as SqlResult<R>;
    } catch (error) {
      const failure = this.#failed(error);
      // Late answers of a statement that was given up must not meet the next one.
      if (!(failure instanceof SqlError)) this.#broken = failure;
      throw failure;
    } finally {
      // A refusal is an answer.
      this.#statements.ended(startedAtMs, this.#broken === undefined);
    }
  }

  /** Gives the connection back, or ends it. */
  release(destroy = false): void {
    this.#client.release(destroy || this.#broken !== undefined);
  }
}

/** Why the database is not available, for a log. */
export function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  return cause instanceof Error ? cause.message : message;
}

function tlsOf({ sslMode }: PostgresTarget, caFile: string | undefined): PoolConfig['ssl'] {
  if (sslMode === 'disable') return false;
  const ca = readCa(caFile, 'DATABASE_TLS_CA');
  return {
    ...(ca !== undefined && { ca }),
    // libpq: with an authority at hand, `require` verifies the chain as well.
    rejectUnauthorized: sslMode !== 'require' || ca !== undefined,
    ...(sslMode !== 'verify-full' && { checkServerIdentity: () => undefined }),
  };
}
