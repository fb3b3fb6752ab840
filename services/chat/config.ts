import { addressToCall, type EnvReader, type RedisConfig, readRedisConfig } from '@chatmesh/mesh';
import type { CassandraOptions } from '@chatmesh/mesh/cassandra';

export interface ChatConfig {
  readonly host: string;
  readonly port: number;
  readonly dataDir: string;
  readonly userAddress: string;
  readonly presenceAddress: string;
  /** Sends per second and at once, per user; 0 is off. */
  readonly sendRate: number;
  readonly sendBurst: number;
  readonly deliveryRetries: number;
  readonly deliveryRetryMs: number;
  /** Whether messages may bear an earlier time than those before the start: when those were dated by a wrong clock. */
  readonly timestampsMayGoBack: boolean;
  /** 32 bytes; undefined where a file beside the embedded data holds them. Secret. */
  readonly fingerprintKey: Buffer | undefined;
  /** The embedded log serves without it. */
  readonly pulsar: PulsarConfig | undefined;
  /** Inboxes and status records are embedded without it. */
  readonly scylla: ScyllaConfig | undefined;
  /** Where the newest rows of inboxes are cached; nowhere when undefined. */
  readonly redis?: RedisConfig | undefined;
  /** How many rows of a device are cached; 0 is off. */
  readonly redisInboxRows: number;
}

export interface ScyllaConfig extends CassandraOptions {
  /** How many nodes of the data center have each row; used by the migration alone. */
  readonly replicationFactor: number;
}

export interface PulsarConfig {
  /** pulsar:// or pulsar+ssl://. */
  readonly serviceUrl: string;
  /** http:// or https://; for the migration, and to ask for the backlog. */
  readonly adminUrl: string;
  /** tenant/namespace. */
  readonly namespace: string;
  /** Secret. */
  readonly token: string | undefined;
  readonly tlsCaFile: string | undefined;
  /** Of the topic that the migration makes. */
  readonly partitions: number;
  /** What may wait in a partition before messages for it are refused, bytes; the broker refuses everything at twice that. */
  readonly backlogBytes: number;
  /** For so long the log keeps what was acknowledged; with 0 it goes at once. */
  readonly retentionHours: number;
  /** 0 to 255; the positions of a higher one come after all of a lower one. */
  readonly epoch: number;
}

const PULSAR_URL = {
  accepts: (url: URL) => url.protocol === 'pulsar:' || url.protocol === 'pulsar+ssl:',
  expected: 'pulsar://host:port or pulsar+ssl://host:port',
  example: 'pulsar://pulsar.example:6650',
};
const ADMIN_URL = {
  accepts: (url: URL) => url.protocol === 'http:' || url.protocol === 'https:',
  expected: 'an http:// or https:// URL',
  example: 'http://pulsar.example:8080',
};

/** Reads the chat service's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): ChatConfig {
  const host = env.host('MESH_HOST', '127.0.0.1');
  const pulsar = readPulsar(env);
  const scylla = readScylla(env);
  return {
    host,
    port: env.port('CHAT_PORT', 7001),
    dataDir: env.string('DATA_DIR', './data'),
    userAddress: env.address('USER_ADDRESS', addressToCall(host, env.port('USER_PORT', 7002))),
    presenceAddress: env.address('PRESENCE_ADDRESS', addressToCall(host, env.port('PRESENCE_PORT', 7003))),
    sendRate: env.int('SEND_RATE', 200, { min: 0, max: 1_000_000 }),
    sendBurst: env.int('SEND_BURST', 1000, { min: 1, max: 1_000_000 }),
    deliveryRetries: env.int('DELIVERY_RETRIES', 3, { min: 0, max: 20 }),
    deliveryRetryMs: env.int('DELIVERY_RETRY_MS', 10_000, { min: 10, max: 600_000 }),
    timestampsMayGoBack: env.boolean('TIMESTAMPS_MAY_GO_BACK', false),
    fingerprintKey: readFingerprintKey(env, pulsar !== undefined || scylla !== undefined),
    pulsar,
    scylla,
    redis: readRedisConfig(env),
    redisInboxRows: env.int('REDIS_INBOX_ROWS', 500, { min: 0, max: 10_000 }),
  };
}

function readPulsar(env: EnvReader): PulsarConfig | undefined {
  const serviceUrl = env.url('PULSAR_URL', PULSAR_URL);
  const adminUrl = env.url('PULSAR_ADMIN_URL', ADMIN_URL);
  const config = {
    adminUrl: adminUrl ?? '',
    namespace: env.string('PULSAR_NAMESPACE', 'chatmesh/mesh'),
    token: env.optional('PULSAR_TOKEN'),
    tlsCaFile: env.optional('PULSAR_TLS_CA'),
    partitions: env.int('PULSAR_PARTITIONS', 16, { min: 1, max: 4096 }),
    backlogBytes: env.int('PULSAR_BACKLOG_BYTES', 10 * 1024 ** 3, { min: 1024 ** 2, max: 10 ** 15 - 1 }),
    retentionHours: env.int('PULSAR_RETENTION_HOURS', 0, { min: 0, max: 8_760 }),
    epoch: env.int('PULSAR_EPOCH', 0, { min: 0, max: 255 }),
  };
  if (!/^[\w.-]+\/[\w.-]+$/.test(config.namespace)) {
    env.reject(
      'PULSAR_NAMESPACE',
      'PULSAR_NAMESPACE must be tenant/namespace; for example PULSAR_NAMESPACE=chatmesh/mesh',
    );
  }
  if (serviceUrl !== undefined && adminUrl === undefined)
    env.reject(
      'PULSAR_ADMIN_URL',
      `PULSAR_ADMIN_URL must be set because PULSAR_URL is; for example PULSAR_ADMIN_URL=${ADMIN_URL.example}`,
    );
  return serviceUrl === undefined ? undefined : { serviceUrl, ...config };
}

function readScylla(env: EnvReader): ScyllaConfig | undefined {
  const contactPoints = env.addresses('SCYLLA_CONTACT_POINTS', []);
  const config = {
    contactPoints,
    localDatacenter: env.string('SCYLLA_LOCAL_DATACENTER', ''),
    keyspace: env.string('SCYLLA_KEYSPACE', 'chatmesh'),
    username: env.optional('SCYLLA_USERNAME'),
    password: env.optional('SCYLLA_PASSWORD'),
    tlsCaFile: env.optional('SCYLLA_TLS_CA'),
    rack: env.optional('SCYLLA_RACK'),
    replicationFactor: env.int('SCYLLA_REPLICATION_FACTOR', 3, { min: 1, max: 9 }),
  };
  const needs = (name: string, because: string, example: string) =>
    env.reject(name, `${name} must be set because ${because} is; for example ${name}=${example}`);
  if (contactPoints.length > 0 && config.localDatacenter === '')
    needs('SCYLLA_LOCAL_DATACENTER', 'SCYLLA_CONTACT_POINTS', 'datacenter1');
  if (config.password !== undefined && config.username === undefined)
    needs('SCYLLA_USERNAME', 'SCYLLA_PASSWORD', 'chatmesh');
  if (config.username !== undefined && config.password === undefined)
    needs('SCYLLA_PASSWORD', 'SCYLLA_USERNAME', 'its-password');
  if (!/^[a-z][a-z0-9_]{0,47}$/.test(config.keyspace)) {
    const rule = 'a small letter, then small letters, digits and underscores, 48 at most';
    env.reject('SCYLLA_KEYSPACE', `SCYLLA_KEYSPACE must be ${rule}; for example SCYLLA_KEYSPACE=chatmesh`);
  }
  return contactPoints.length > 0 ? config : undefined;
}

/** @param shared whether other routers work on the same engines. */
function readFingerprintKey(env: EnvReader, shared: boolean): Buffer | undefined {
  const text = env.optional('CHAT_FINGERPRINT_KEY');
  if (text !== undefined && /^[\da-f]{64}$/i.test(text)) return Buffer.from(text, 'hex');
  if (text !== undefined || shared) {
    const problem = text === undefined ? 'is needed with real engines:' : 'must be';
    env.reject(
      'CHAT_FINGERPRINT_KEY',
      `CHAT_FINGERPRINT_KEY ${problem} 64 hexadecimal digits, the same for all routers; make one with: openssl rand -hex 32`,
    );
  }
  return undefined;
}
