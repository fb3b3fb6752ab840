import type { EnvReader } from './config.js';

/** Where Redis is, and how to get in. */
export interface RedisConfig {
  /** `host:port`. Of a cluster, some of its nodes; unused with sentinels. */
  readonly nodes: readonly string[];
  readonly cluster: boolean;
  /** `host:port` of the sentinels; empty where there are none. */
  readonly sentinels: readonly string[];
  /** What the sentinels call the master. */
  readonly sentinelMaster: string;
  readonly sentinelPassword: string | undefined;
  readonly username: string | undefined;
  readonly password: string | undefined;
  /** The number of the database; 0 in a cluster. */
  readonly database: number;
  readonly tls: boolean;
  /** PEM file with the authority that signed the server's certificate; the system's authorities when undefined. */
  readonly caFile: string | undefined;
  /** What every key begins with. */
  readonly prefix: string;
}

type Address = Pick<RedisConfig, 'nodes' | 'username' | 'password' | 'database' | 'tls'>;

const DEFAULT_PORT = 6379;
const NOWHERE: Address = { nodes: [], username: undefined, password: undefined, database: 0, tls: false };

/**
 * Reads the variables of Redis; undefined when it is not to be used.
 *
 * - `REDIS_URL`: `redis://user:password@host:6379/0`, or `rediss://` for TLS.
 * - `REDIS_CLUSTER=true`: a Redis Cluster; REDIS_URL may then name several nodes, `redis://host-1:6379,host-2:6379`.
 * - `REDIS_SENTINELS`: `host:26379,...`, which know the address of `REDIS_SENTINEL_MASTER` (mymaster); REDIS_URL, if it is
 *   set, then gives user, password, database and TLS, and its host is not used. `REDIS_SENTINEL_PASSWORD` is the sentinels'.
 * - `REDIS_CA_FILE`: PEM, for TLS with an authority of one's own.
 * - `REDIS_PREFIX`: what every key begins with, for meshes that share a Redis.
 */
export function readRedisConfig(env: EnvReader): RedisConfig | undefined {
  const cluster = env.boolean('REDIS_CLUSTER', false);
  const address = env.parsed('REDIS_URL', (value) => addressOf(value, cluster), {
    expected: cluster
      ? 'redis:// or rediss:// with nodes of the cluster and no database'
      : 'a redis:// or rediss:// URL with one host (several are for REDIS_CLUSTER=true)',
    example: cluster ? 'redis://user:password@host-1:6379,host-2:6379' : 'redis://user:password@host:6379/0',
  });
  const sentinels = cluster
    ? env.parsed('REDIS_SENTINELS', () => undefined, { expected: 'unset with REDIS_CLUSTER=true', example: '' })
    : env.addresses('REDIS_SENTINELS', []);
  const config: RedisConfig = {
    ...(address ?? NOWHERE),
    cluster,
    sentinels: sentinels ?? [],
    sentinelMaster: env.string('REDIS_SENTINEL_MASTER', 'mymaster'),
    sentinelPassword: env.optional('REDIS_SENTINEL_PASSWORD'),
    caFile: env.optional('REDIS_CA_FILE'),
    prefix: env.string('REDIS_PREFIX', 'chatmesh:'),
  };
  return address || config.sentinels.length > 0 ? config : undefined;
}

function addressOf(value: string, cluster: boolean): Address | undefined {
  const parts = /^(rediss?):\/\/(?:([^:@/]*)(?::([^@/]*))?@)?([^@/?#]+)(?:\/(\d{1,5})?)?$/i.exec(value);
  if (!parts) return undefined;
  const [, scheme = '', username = '', password = '', hosts = '', database = '0'] = parts;
  const nodes = hosts.split(',').map(nodeOf);
  if (nodes.includes(undefined) || (cluster ? Number(database) !== 0 : nodes.length > 1)) return undefined;
  try {
    return {
      nodes: nodes as string[],
      username: decodeURIComponent(username) || undefined,
      password: decodeURIComponent(password) || undefined,
      database: Number(database),
      tls: scheme.toLowerCase() === 'rediss',
    };
  } catch {
    return undefined;
  }
}

function nodeOf(text: string): string | undefined {
  const [, host, port = DEFAULT_PORT] = /^([\w.-]+|\[[\da-f:.]+\])(?::(\d{1,5}))?$/i.exec(text) ?? [];
  return host !== undefined && Number(port) >= 1 && Number(port) <= 65_535 ? `${host}:${port}` : undefined;
}
