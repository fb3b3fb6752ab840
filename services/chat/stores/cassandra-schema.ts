import { readdirSync, readFileSync } from 'node:fs';
import { MeshError } from '@chatmesh/mesh';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import type { ScyllaConfig } from '../config.js';

/** Beside `dist` in the service's folder: NNNN_what_it_does.cql, applied in the order of their numbers. */
const MIGRATIONS = new URL('../../migrations/', import.meta.url);
/** Services may share a keyspace: each counts its own versions. */
const SERVICE = 'chat';
const VERSION_TABLE = `CREATE TABLE IF NOT EXISTS schema_versions (
  service text, version int, name text, applied_at timestamp, PRIMARY KEY (service, version)
)`;

interface Migration {
  readonly version: number;
  readonly name: string;
  readonly statements: readonly string[];
}

/**
 * Creates the keyspace and brings its tables to the version of this program. Doing it again, or twice at once, is no error:
 * statements do nothing where their work is done, and a version is written down after its statements.
 *
 * @returns what was done, as the end of a sentence.
 * @throws MeshError `unavailable`, or `failed_precondition` for what an operator has to put right.
 */
export async function migrateStores(config: ScyllaConfig): Promise<string> {
  const migrations = readMigrations();
  await Cassandra.createKeyspace(config, config.replicationFactor);
  const cassandra = await Cassandra.connect(config);
  try {
    await cassandra.define([VERSION_TABLE]);
    const from = await schemaVersion(cassandra);
    const to = latest(migrations);
    if (from > to) throw newer(cassandra.keyspace, from, to);
    const missing = migrations.filter((migration) => migration.version > from);
    for (const { version, name, statements } of missing) {
      await cassandra.define(statements);
      await cassandra.write({
        cql: 'INSERT INTO schema_versions (service, version, name, applied_at) VALUES (?, ?, ?, toTimestamp(now()))',
        params: [SERVICE, version, name],
      });
    }
    return missing.length > 0 ? `applied ${missing.map(({ name }) => name).join(', ')}` : 'is up to date';
  } finally {
    await cassandra[Symbol.asyncDispose]();
  }
}

/** @throws MeshError `failed_precondition`, saying what to run, when the tables are not those that this program knows. */
export async function checkSchema(cassandra: Cassandra): Promise<void> {
  const found = await schemaVersion(cassandra);
  const needed = latest(readMigrations());
  if (found > needed) throw newer(cassandra.keyspace, found, needed);
  if (found < needed)
    throw new MeshError(
      'failed_precondition',
      `the schema of keyspace ${cassandra.keyspace} is at version ${found} and this program needs ${needed}: run \`npx chatmesh migrate\``,
    );
}

function newer(keyspace: string, found: number, known: number): MeshError {
  return new MeshError(
    'failed_precondition',
    `the schema of keyspace ${keyspace} is at version ${found} and this program knows ${known}: start the newer program whose \`npx chatmesh migrate\` made it`,
  );
}

/** 0 when nothing was applied yet. */
async function schemaVersion(cassandra: Cassandra): Promise<number> {
  const cql = 'SELECT version FROM schema_versions WHERE service = ?';
  try {
    const rows = await cassandra.read<{ version: number }>(cql, [SERVICE]);
    return Math.max(0, ...rows.map((row) => row.version));
  } catch (error) {
    if (error instanceof MeshError && error.kind === 'failed_precondition') return 0;
    throw error;
  }
}

function readMigrations(): Migration[] {
  const files = readdirSync(MIGRATIONS).filter((file) => /^\d{4}_\w+\.cql$/.test(file));
  return files.sort().map((file) => {
    const text = readFileSync(new URL(file, MIGRATIONS), 'utf8').replace(/--.*$/gm, '');
    const statements = text.split(/;\s*$/m).map((statement) => statement.trim());
    return { version: Number(file.slice(0, 4)), name: file, statements: statements.filter((cql) => cql !== '') };
  });
}

function latest(migrations: readonly Migration[]): number {
  return migrations.at(-1)?.version ?? 0;
}
