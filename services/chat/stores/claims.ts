import { toMeshError } from '@chatmesh/mesh';
import type { RedisClient } from '@chatmesh/mesh/redis';

/** As what a router is about to accept a message. */
export interface Claim {
  readonly acceptedAtMs: number;
  /** As in the status record. */
  readonly fingerprint: string;
}

/**
 * What routers were about to accept, for the time until a status record says that they have. A router that dies between the
 * log and the record leaves a message that is accepted and that nobody was told of; who accepts its repeat has to give it
 * the same time.
 */
export interface Claims {
  /**
   * Claims a message. Resolves with the claim that counts: the first one, or, where no other is known, this one. Never
   * fails: without an answer this claim counts.
   */
  claim(serverMessageId: string, claim: Claim): Promise<Claim>;
}

/** A repeat comes within seconds. Until the time is over, the owner of the recipient has written the record. */
const TTL_MS = 60_000;

/** Claims in Redis. One that is lost there costs no message: a repeat may then be told a later time than the first copy bears. */
export class RedisClaims implements Claims {
  readonly #redis: RedisClient;
  readonly #refused: (error: unknown) => void;

  /** @param refused told of errors that are no outages. */
  constructor(redis: RedisClient, refused: (error: unknown) => void) {
    this.#redis = redis;
    this.#refused = refused;
  }

  async claim(serverMessageId: string, claim: Claim): Promise<Claim> {
    if (!this.#redis.ready) return claim;
    try {
      const key = `${this.#redis.prefix}claim:{${serverMessageId}}`;
      const earlier = await this.#redis.setIfAbsent(key, `${claim.acceptedAtMs}/${claim.fingerprint}`, TTL_MS);
      if (earlier === undefined) return claim;
      const slash = earlier.indexOf('/');
      return { acceptedAtMs: Number(earlier.slice(0, slash)), fingerprint: earlier.slice(slash + 1) };
    } catch (error) {
      if (toMeshError(error).kind !== 'unavailable') this.#refused(error);
      return claim;
    }
  }
}
