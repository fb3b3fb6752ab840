import { randomUUID } from 'node:crypto';
import type { InboxStore } from '@chatmesh/chat';
import { CachedInboxStore } from '@chatmesh/chat/redis';
import { createLogger, EnvReader, readRedisConfig } from '@chatmesh/mesh';
import { RedisClient } from '@chatmesh/mesh/redis';
import type { Engine } from '../contract/engine.js';
import { lmdbInboxStore } from '../contract/lmdb-engines.js';
import { RedisServer, startRedisCluster } from './redis-server.js';

const logger = createLogger({ name: 'test', level: 'silent' });

/** A client as the environment names it, with keys of its own unless that names their prefix. */
export async function redisClient(env: Record<string, string>): Promise<RedisClient> {
  const config = readRedisConfig(new EnvReader({ REDIS_PREFIX: `test:${randomUUID()}:`, ...env }));
  if (!config) throw new Error('no address of Redis');
  return await RedisClient.open(config, { logger });
}

/** Redis alone and as a cluster: how it is started, and what the environment says. */
export const REDIS_KINDS: [
  name: string,
  start: () => Promise<RedisServer[]>,
  env: (urls: string[]) => Record<string, string>,
][] = [
  ['a Redis', async () => [await RedisServer.start()], ([url]) => ({ REDIS_URL: url ?? '' })],
  [
    'a Redis cluster of three',
    startRedisCluster,
    (urls) => ({ REDIS_URL: `redis://${urls.map((url) => url.slice(8)).join(',')}`, REDIS_CLUSTER: 'true' }),
  ],
];

/** LMDB, and before it the Redis of REDIS_URL, as a router has them that owns every user all the time. */
export const cachedInboxStore: Engine<InboxStore> = {
  module: import.meta.url,
  exported: 'cachedInboxStore',
  place: () => lmdbInboxStore.place(),
  async open(location) {
    const inner = await lmdbInboxStore.open(location);
    const redis = await redisClient({
      REDIS_URL: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379',
      REDIS_PREFIX: `test:${location}:`,
    });
    const store = new CachedInboxStore(inner.store, { redis, maxRows: 500, tenureOf: () => 1, logger });
    return {
      store,
      async close() {
        await store[Symbol.asyncDispose]();
        await redis[Symbol.asyncDispose]();
        await inner.close();
      },
    };
  },
};
