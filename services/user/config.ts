import { type EnvReader, isPostgresUrl, POSTGRES_URL } from '@chatmesh/mesh';

/** What an operator can choose. */
export interface UserConfig {
  /** The address to listen on. */
  readonly host: string;
  readonly port: number;
  /** Where embedded data lives; this service's is in `user` below it. */
  readonly dataDir: string;
  /** PostgreSQL; the embedded database serves without it. */
  readonly database?: DatabaseConfig;
}

export interface DatabaseConfig {
  /** postgres://, with the password. */
  readonly url: string;
  /** A physical standby of the same database, or several behind one name: takes look-ups. */
  readonly replicaUrl?: string | undefined;
  /** Connections of this process at most, to each of the two. */
  readonly poolMax: number;
  /** PEM file of the authorities that may have signed the server's certificate. */
  readonly tlsCaFile?: string | undefined;
}

const POSTGRES = { ...POSTGRES_URL, accepts: isPostgresUrl };

/** Reads the user service's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): UserConfig {
  const database = readDatabase(env);
  return {
    host: env.host('MESH_HOST', '127.0.0.1'),
    port: env.port('USER_PORT', 7002),
    dataDir: env.string('DATA_DIR', './data'),
    ...(database && { database }),
  };
}

function readDatabase(env: EnvReader): DatabaseConfig | undefined {
  const url = env.url('DATABASE_URL', POSTGRES);
  const replicaUrl = env.url('DATABASE_REPLICA_URL', POSTGRES);
  const poolMax = env.int('DATABASE_POOL_MAX', 10, { min: 1, max: 1_000 });
  const tlsCaFile = env.optional('DATABASE_TLS_CA');
  if (url !== undefined) return { url, replicaUrl, poolMax, tlsCaFile };
  if (replicaUrl !== undefined && env.optional('DATABASE_URL') === undefined) {
    env.reject(
      'DATABASE_REPLICA_URL',
      'DATABASE_REPLICA_URL names a standby of DATABASE_URL, which is not set: set both',
    );
  }
  return undefined;
}
