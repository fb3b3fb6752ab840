import { RedisAttempts } from '@chatmesh/chat/redis';
import { expect, test } from '@jest/globals';
import { attemptsContract } from '../contract/attempts.js';
import { until } from '../mesh.js';
import { REDIS_KINDS, redisClient } from './redis-engines.js';
import { RedisServer } from './redis-server.js';

const unexpected = (error: unknown) => {
  throw error;
};

for (const [name, start, env] of REDIS_KINDS) {
  attemptsContract(name, async (routers) => {
    const servers = await start();
    const redis = await redisClient(env(servers.map(({ url }) => url)));
    return {
      routers: Array.from({ length: routers }, () => new RedisAttempts(redis, unexpected)),
      async close() {
        await redis[Symbol.asyncDispose]();
        for (const server of servers) await server.stop();
      },
    };
  });
}

test('without Redis nothing is known, and nothing fails; a Redis that was wiped begins anew', async () => {
  const server = await RedisServer.start();
  const redis = await redisClient({ REDIS_URL: server.url });
  try {
    const attempts = new RedisAttempts(redis, unexpected);
    const attempt = { serverMessageId: '5a', fingerprint: 'aa' };
    expect((await attempts.begin('ada', 1, [attempt])).before).toBe('nobody');
    await server.kill();
    await until(async () => !redis.ready);
    expect(await attempts.begin('ada', 1, [attempt])).toEqual({ before: 'unknown', latestMs: 0, first: [undefined] });
    await server.restart();
    await until(async () => redis.ready);
    expect(await attempts.begin('ada', 1, [attempt])).toEqual({ before: 'nobody', latestMs: 0, first: [undefined] });
  } finally {
    await redis[Symbol.asyncDispose]();
    await server.stop();
  }
});
