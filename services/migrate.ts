import { ConfigError, toMeshError, withDriver } from '@chatmesh/mesh';
import { type MeshConfig, readMeshConfig } from './config.js';

/** A real engine that has to be prepared before the services use it. Preparing it again changes nothing. */
interface EngineEntry {
  readonly engine: string;
  /** The variable that names it. */
  readonly variable: string;
  configured(config: MeshConfig): boolean;
  /** Resolves with what was done, as the end of a sentence. */
  prepare(config: MeshConfig): Promise<string>;
}

const ENGINES: readonly EngineEntry[] = [
  {
    engine: 'PostgreSQL',
    variable: 'DATABASE_URL',
    configured: ({ user }) => user.database !== undefined,
    async prepare({ user: { database } }) {
      const { migrateUsers } = await withDriver('pg', () => import('@chatmesh/user/migrate'));
      const applied = database ? await migrateUsers(database) : [];
      return applied.length > 0 ? `applied ${applied.join(', ')}` : 'is up to date';
    },
  },
  {
    engine: 'Pulsar',
    variable: 'PULSAR_URL',
    configured: ({ chat }) => chat.pulsar !== undefined,
    async prepare({ chat: { pulsar } }) {
      const { migrateLog } = await import('@chatmesh/chat');
      return pulsar ? await migrateLog(pulsar) : '';
    },
  },
  {
    engine: 'ScyllaDB',
    variable: 'SCYLLA_CONTACT_POINTS',
    configured: ({ chat }) => chat.scylla !== undefined,
    async prepare({ chat: { scylla } }) {
      const { migrateStores } = await withDriver('cassandra-driver', () => import('@chatmesh/chat/scylla'));
      return scylla ? await migrateStores(scylla) : '';
    },
  },
];

/** As the command line's own: 0 done, 1 refused, 2 wrong configuration, 3 an engine does not answer. */
const EXIT = { done: 0, refused: 1, configuration: 2, unreachable: 3 } as const;

/**
 * `npx chatmesh migrate [--json]`: prepares every real engine that the environment names, and says in a line for each what it did.
 * An engine that fails does not keep the others from being prepared.
 */
async function main(): Promise<void> {
  const json = process.argv.includes('--json');
  const config = readMeshConfig(process.env);
  const wanted = ENGINES.filter((entry) => entry.configured(config));
  const say = (line: Record<string, string>, text: string, stream: NodeJS.WriteStream) =>
    json ? process.stdout.write(`${JSON.stringify(line)}\n`) : stream.write(`${text}\n`);
  if (wanted.length === 0) {
    const variables = ENGINES.map(({ variable }) => variable).join(', ');
    say(
      { result: 'no real engine is configured' },
      `Nothing to prepare: no real engine is configured (${variables}), and the embedded ones prepare themselves.`,
      process.stdout,
    );
  }
  for (const { engine, prepare } of wanted) {
    try {
      const result = await prepare(config);
      say({ engine, result }, `${engine}: ${result}`, process.stdout);
    } catch (error) {
      const { kind, message, cause } = toMeshError(error);
      const known = kind === 'failed_precondition' || !(cause instanceof Error);
      const why = known ? message : cause.message;
      say({ engine, error: why }, why, process.stderr);
      process.exitCode = Math.max(
        Number(process.exitCode ?? 0),
        kind === 'unavailable' ? EXIT.unreachable : EXIT.refused,
      );
    }
  }
}

main().catch((error) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = error instanceof ConfigError ? EXIT.configuration : EXIT.refused;
});
