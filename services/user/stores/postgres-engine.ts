import type { Logger, Metrics } from '@chatmesh/mesh';
import { SqlPool } from '@chatmesh/mesh/sql';
import { Kysely, PostgresDialect, type PostgresPool } from 'kysely';
import type { DatabaseConfig } from '../config.js';
import { Replica } from './replica.js';
import type { Schema } from './schema.js';
import type { Queries, SqlEngine } from './sql-user-store.js';

/** A look-up that a standby does not answer soon still has time for the primary, milliseconds. */
const STANDBY_MS = 1_000;

/** A PostgreSQL server, and a standby of it that takes look-ups where there is one. */
export class PostgresEngine implements SqlEngine {
  readonly db: Kysely<Schema>;
  readonly shared = true;
  readonly #pool: SqlPool;
  readonly #replica: Replica | undefined;

  private constructor(pool: SqlPool, replica: Replica | undefined) {
    this.#pool = pool;
    this.#replica = replica;
    this.db = queriesOn(pool);
  }

  /**
   * Connects.
   *
   * @throws MeshError `unavailable` when PostgreSQL does not answer or does not accept writes; `failed_precondition` with a
   * sentence for the operator, see SqlPool.
   */
  static async open(config: DatabaseConfig, logger: Logger, metrics?: Metrics): Promise<PostgresEngine> {
    const pool = openPool(config, { logger, metrics });
    try {
      await pool.check();
      const { replicaUrl: url } = config;
      const options = { logger, metrics, statementMs: STANDBY_MS };
      const standby = url === undefined ? undefined : openPool({ ...config, url }, options);
      pool.watch();
      return new PostgresEngine(pool, standby && new Replica(pool, standby, queriesOn(standby), logger));
    } catch (error) {
      await pool.end();
      throw error;
    }
  }

  get ready(): boolean {
    return this.#pool.ready;
  }

  lookUp<T>(ask: (queries: Queries) => Promise<T>): Promise<T> {
    return this.#replica ? this.#replica.lookUp(ask, this.db) : ask(this.db);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#pool.end(), this.#replica?.[Symbol.asyncDispose]()]);
  }
}

/** The connections that a service, or a migration, has to one server. */
export function openPool(
  { url, tlsCaFile, poolMax }: DatabaseConfig,
  options: { readonly logger: Logger; readonly metrics?: Metrics | undefined; readonly statementMs?: number },
): SqlPool {
  return new SqlPool({ url, tlsCaFile, max: poolMax, applicationName: 'chatmesh-user', ...options });
}

/** Kysely on a pool. The pool is ended by whoever has made it. */
export function queriesOn(pool: SqlPool): Kysely<Schema> {
  // What the types differ in are cursors, which nobody here asks for.
  const connections = { connect: () => pool.connect(), end: async () => {} } as unknown as PostgresPool;
  return new Kysely<Schema>({ dialect: new PostgresDialect({ pool: connections }) });
}
