import { randomUUID } from 'node:crypto';
import { TokenBuckets } from '@chatmesh/chat/domain/token-bucket';
import { RedisTokens } from '@chatmesh/chat/redis';
import type { RedisClient } from '@chatmesh/mesh/redis';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { until } from '../mesh.js';
import { redisClient as client, REDIS_KINDS } from './redis-engines.js';
import { RedisServer } from './redis-server.js';

const BURST = 1_000;
/** So slow that nothing comes back while a test runs. */
const LIMIT = { rate: 0.001, burst: BURST };
/** What a router lets through before it tells. */
const SHARE = BURST / 20;
describe.each(REDIS_KINDS)('rates of senders on %s', (_name, start, env) => {
  let servers: RedisServer[];
  let redis: RedisClient;

  beforeAll(async () => {
    servers = await start();
    redis = await client(env(servers.map(({ url }) => url)));
  });
  afterAll(async () => {
    await redis[Symbol.asyncDispose]();
    for (const server of servers) await server.stop();
  });

  /** How many tokens a router gives for one user until it refuses, with what Redis says in between. */
  async function exhaust(router: TokenBuckets, user: string): Promise<number> {
    let taken = 0;
    while (router.take(user, Date.now()) === 0) {
      taken++;
      if (taken % SHARE === 0) await redis.hash(`${redis.prefix}sends:{${user}}`);
    }
    return taken;
  }

  test('what one router lets through is not there for the other', async () => {
    const [first, second] = [
      new TokenBuckets(LIMIT, new RedisTokens(redis)),
      new TokenBuckets(LIMIT, new RedisTokens(redis)),
    ];
    for (const user of Array.from({ length: 20 }, randomUUID)) {
      const [byFirst, bySecond] = [await exhaust(first, user), await exhaust(second, user)];
      expect(byFirst).toBe(BURST);
      expect(bySecond).toBeGreaterThan(0);
      expect(bySecond).toBeLessThanOrEqual(2 * SHARE);
      expect(second.take(user, Date.now())).toBeGreaterThan(0);
    }
  });

  test('who sends less than a share is not asked about, and takes from nobody', async () => {
    const router = new TokenBuckets(LIMIT, new RedisTokens(redis));
    const user = randomUUID();
    for (let i = 0; i < SHARE - 1; i++) expect(router.take(user, Date.now())).toBe(0);
    expect(await redis.hash(`${redis.prefix}sends:{${user}}`)).toEqual({});
    router.take(user, Date.now());
    await until(async () => (await redis.hash(`${redis.prefix}sends:{${user}}`)).tokens !== undefined);
    expect((await redis.hash(`${redis.prefix}sends:{${user}}`)).tokens).toBe(`${BURST - SHARE}.000`);
  });

  test('a bucket fills by the rate, no further than it holds, and its key goes when it is full', async () => {
    const tokens = new RedisTokens(redis);
    const user = randomUUID();
    const limit = { rate: 1_000, burst: 100 };
    expect(await tokens.take(user, 100, limit)).toBe(0);
    await until(async () => (await tokens.take(user, 0, limit)) === 100);
    expect(await tokens.take(user, 1, limit)).toBeGreaterThanOrEqual(99);
    await until(async () => Object.keys(await redis.hash(`${redis.prefix}sends:{${user}}`)).length === 0);
  });

  test('more than is there leaves nothing, not less', async () => {
    const tokens = new RedisTokens(redis);
    expect(await tokens.take('greedy', 5_000, LIMIT)).toBe(0);
  });
});

test('without Redis each router goes by its own buckets, and tells later what it let through', async () => {
  const server = await RedisServer.start();
  const redis = await client({ REDIS_URL: server.url });
  try {
    const tokens = new RedisTokens(redis);
    const [first, second] = [new TokenBuckets(LIMIT, tokens), new TokenBuckets(LIMIT, tokens)];
    await server.kill();
    await until(async () => !redis.ready);
    for (let i = 0; i < BURST - 1; i++) expect(first.take('ada', Date.now())).toBe(0);
    await server.restart();
    await until(async () => redis.ready);
    expect(first.take('ada', Date.now())).toBe(0);
    expect(first.take('ada', Date.now())).toBeGreaterThan(0);
    await until(async () => (await redis.hash(`${redis.prefix}sends:{ada}`)).tokens === '0.000');
    for (let i = 0; i < SHARE; i++) second.take('ada', Date.now());
    await until(async () => second.take('ada', Date.now()) > 0);
  } finally {
    await redis[Symbol.asyncDispose]();
    await server.stop();
  }
});
