import {
  CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Driver,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type QueryResult,
} from 'kysely';

/** What the dialect needs of the embedded engine: one session that runs one statement at a time. */
export interface SingleSession {
  query(sql: string, parameters: readonly unknown[]): Promise<{ rows: unknown[]; affectedRows: number }>;
  close(): Promise<void>;
}

/** PostgreSQL as Kysely writes it, on an engine with a single session: whoever asks for a connection waits for it. */
export function singleSessionDialect(session: SingleSession): Dialect {
  return {
    createAdapter: () => new PostgresAdapter(),
    createDriver: () => new SingleSessionDriver(session),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createQueryCompiler: () => new PostgresQueryCompiler(),
  };
}

class SingleSessionDriver implements Driver {
  readonly #session: SingleSession;
  readonly #connection: DatabaseConnection;
  readonly #waiting: (() => void)[] = [];
  #taken = false;

  constructor(session: SingleSession) {
    this.#session = session;
    this.#connection = {
      async executeQuery<R>({ sql, parameters }: CompiledQuery): Promise<QueryResult<R>> {
        const { rows, affectedRows } = await session.query(sql, parameters);
        return { rows: rows as R[], numAffectedRows: BigInt(affectedRows) };
      },
      // biome-ignore lint/correctness/useYield: it fails before the first row.
      async *streamQuery() {
        throw new Error('the embedded database has no cursors: page instead');
      },
    };
  }

  async init(): Promise<void> {}

  async acquireConnection(): Promise<DatabaseConnection> {
    if (this.#taken) await new Promise<void>((turn) => this.#waiting.push(turn));
    this.#taken = true;
    return this.#connection;
  }

  async releaseConnection(): Promise<void> {
    const next = this.#waiting.shift();
    // Handed over without a gap in which a third could take it.
    if (next) next();
    else this.#taken = false;
  }

  async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin'));
  }

  async commitTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('commit'));
  }

  async rollbackTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('rollback'));
  }

  async destroy(): Promise<void> {
    await this.#session.close();
  }
}
