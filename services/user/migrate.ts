import { createLogger } from '@chatmesh/mesh';
import type { DatabaseConfig } from './config.js';
import { migrateSchema } from './migrations/migrate.js';
import { openPool, queriesOn } from './stores/postgres-engine.js';

/** Building an index on a large table takes its time; waiting for another process that migrates, too. */
const STATEMENT_MS = 15 * 60_000;

/**
 * Brings the schema of a PostgreSQL database up to date, see {@link migrateSchema}. Services of the version before go on running
 * meanwhile.
 *
 * @returns the names of the migrations that were applied.
 * @throws MeshError `failed_precondition` with a sentence for the operator; `unavailable` at once, without retries.
 */
export async function migrateUsers(database: Pick<DatabaseConfig, 'url' | 'tlsCaFile'>): Promise<string[]> {
  const logger = createLogger({ name: 'migrate', level: 'silent' });
  const pool = openPool({ ...database, poolMax: 2 }, { logger, statementMs: STATEMENT_MS });
  const db = queriesOn(pool);
  try {
    await pool.check();
    return await migrateSchema(db);
  } finally {
    await db.destroy();
    await pool.end();
  }
}
