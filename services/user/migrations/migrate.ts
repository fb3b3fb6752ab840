import { MeshError } from '@chatmesh/mesh';
import { type Kysely, Migrator, sql } from 'kysely';
import type { Schema } from '../stores/schema.js';
import { migrations } from './index.js';

const NEEDED = Object.keys(migrations).sort();
const LATEST = NEEDED.at(-1) ?? '';

/**
 * Brings the schema up to date, in one transaction and under an advisory lock: of several processes at once one does it, and the
 * others find it done. Running it again changes nothing.
 *
 * @returns the names of the migrations that were applied here, in order.
 * @throws MeshError `failed_precondition` naming the migration that failed, and where the schema is newer than this
 * version; `unavailable`.
 */
export async function migrateSchema(db: Kysely<Schema>): Promise<string[]> {
  const { unknown } = await schemaOf(db);
  if (unknown.length > 0) throw newer(unknown);
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } });
  const { error, results = [] } = await migrator.migrateToLatest();
  if (error instanceof MeshError) throw error;
  if (error !== undefined) {
    const failed = results.find(({ status }) => status === 'Error')?.migrationName ?? 'before the first';
    const why = error instanceof Error ? error.message : String(error);
    throw new MeshError('failed_precondition', `the user database cannot be migrated (${failed}): ${why}`, {
      cause: error,
    });
  }
  return results.map(({ migrationName }) => migrationName);
}

/**
 * Whether the schema is the one that this version needs.
 *
 * @throws MeshError `failed_precondition` saying what to run when it is older or newer; `unavailable`.
 */
export async function checkSchema(db: Kysely<Schema>): Promise<void> {
  const { applied, unknown } = await schemaOf(db);
  if (unknown.length > 0) throw newer(unknown);
  const missing = NEEDED.filter((name) => !applied.includes(name));
  if (missing.length > 0) {
    throw new MeshError(
      'failed_precondition',
      `the user database has ${applied.length > 0 ? 'an older schema' : 'no schema yet'} (${missing.join(', ')} missing): run \`npx chatmesh migrate\``,
    );
  }
}

function newer(unknown: readonly string[]): MeshError {
  return new MeshError(
    'failed_precondition',
    `the user database has a newer schema (${unknown.join(', ')}) than this version of chatmesh, which ends at ${LATEST}: ` +
      'start the version whose `npx chatmesh migrate` has been run',
  );
}

/** The migrations that the database has seen, and those among them that this version does not know. */
async function schemaOf(db: Kysely<Schema>): Promise<{ applied: string[]; unknown: string[] }> {
  const found = await sql<{ there: boolean }>`select to_regclass('kysely_migration') is not null as there`.execute(db);
  if (!found.rows[0]?.there) return { applied: [], unknown: [] };
  const { rows } = await sql<{ name: string }>`select name from kysely_migration order by name`.execute(db);
  const applied = rows.map(({ name }) => name);
  return { applied, unknown: applied.filter((name) => !NEEDED.includes(name)) };
}
