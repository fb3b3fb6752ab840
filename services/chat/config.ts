import { type EnvReader, type RedisConfig, readRedisConfig } from '@chatmesh/mesh';

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
  /** Where the newest rows of inboxes are cached; nowhere when undefined. */
  readonly redis?: RedisConfig | undefined;
  /** How many rows of a device are cached; 0 is off. */
  readonly redisInboxRows: number;
}

/** Reads the chat service's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): ChatConfig {
  const host = env.string('MESH_HOST', '127.0.0.1');
  return {
    host,
    port: env.port('CHAT_PORT', 7001),
    dataDir: env.string('DATA_DIR', './data'),
    userAddress: env.string('USER_ADDRESS', `${host}:${env.port('USER_PORT', 7002)}`),
    presenceAddress: env.string('PRESENCE_ADDRESS', `${host}:${env.port('PRESENCE_PORT', 7003)}`),
    sendRate: env.int('SEND_RATE', 200, { min: 0, max: 1_000_000 }),
    sendBurst: env.int('SEND_BURST', 1000, { min: 1, max: 1_000_000 }),
    deliveryRetries: env.int('DELIVERY_RETRIES', 3, { min: 0, max: 20 }),
    deliveryRetryMs: env.int('DELIVERY_RETRY_MS', 10_000, { min: 10, max: 600_000 }),
    redis: readRedisConfig(env),
    redisInboxRows: env.int('REDIS_INBOX_ROWS', 500, { min: 0, max: 10_000 }),
  };
}
