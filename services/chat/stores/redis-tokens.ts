import { type RedisClient, RedisScript } from '@chatmesh/mesh/redis';
import type { RateLimit, SharedTokens } from '../domain/token-bucket.js';

const TAKE = new RedisScript(new URL('../../lua/tokens-take.lua', import.meta.url));

/** Buckets in Redis, each gone when it is full. Losing them gives everybody a full one. */
export class RedisTokens implements SharedTokens {
  readonly #redis: RedisClient;

  constructor(redis: RedisClient) {
    this.#redis = redis;
  }

  /** @throws MeshError as {@link RedisClient} */
  async take(key: string, count: number, { rate, burst }: RateLimit): Promise<number> {
    return Number(await this.#redis.run(TAKE, `${this.#redis.prefix}sends:{${key}}`, [count, rate, burst]));
  }
}
