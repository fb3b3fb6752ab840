import { randomUUID } from 'node:crypto';
import { toMeshError } from '@chatmesh/mesh';
import { type RedisClient, RedisScript } from '@chatmesh/mesh/redis';

/** A message that a router is about to accept. */
export interface Attempt {
  readonly serverMessageId: string;
  /** As in the status record. */
  readonly fingerprint: string;
}

/** What routers that share a log know of a sender's messages, besides what is recorded. */
export interface Attempted {
  /**
   * Who accepted for the sender, or announced a device of that user, before: `unknown` where Redis does not say, `nobody`
   * where nobody did for two minutes.
   */
  readonly before: 'here' | 'elsewhere' | 'nobody' | 'unknown';
  /** The latest time that any router was about to give to a message of the sender; 0 where that is not known. */
  readonly latestMs: number;
  /** The fingerprint of the first attempt at each message, in their order; undefined where this one is the first that is known. */
  readonly first: readonly (string | undefined)[];
}

/**
 * What the routers that share a log are about to accept. A router that dies, or that the log does not answer, may leave a message on
 * the log that nobody was told of; whoever is asked to accept it next learns here that there may be one. And a router learns here
 * that another one has worked for a sender since it did, whose devices and latest time it may not know.
 */
export interface Attempts {
  /**
   * Notes attempts at messages of one sender, of which the latest is to bear `atMs`; with none, that this router has announced
   * a device of the user. Never fails: without an answer nothing is known.
   */
  begin(senderId: string, atMs: number, attempts: readonly Attempt[]): Promise<Attempted>;
}

/** A repeat comes within seconds. Until the time is over, the owner of the recipient has written the record. */
const ATTEMPT_TTL_MS = 60_000;
/** Longer than a router goes by what it knows of a user. */
const SENDER_TTL_MS = 120_000;

const BEGIN = new RedisScript(new URL('../../lua/attempts-begin.lua', import.meta.url));
/**
 * Attempts in Redis. What is lost there costs no message: a repeat may then be told a later time than the copy bears that a dead
 * router has left, or a device that was registered through another router in the last seconds may miss a copy.
 */
export class RedisAttempts implements Attempts {
  readonly #redis: RedisClient;
  readonly #refused: (error: unknown) => void;
  readonly #router = randomUUID();

  /** @param refused told of errors that are no outages. */
  constructor(redis: RedisClient, refused: (error: unknown) => void) {
    this.#redis = redis;
    this.#refused = refused;
  }

  async begin(senderId: string, atMs: number, attempts: readonly Attempt[]): Promise<Attempted> {
    if (!this.#redis.ready) return nothingKnown(attempts);
    const sender = `${this.#redis.prefix}sender:{${senderId}}`;
    const keys = [sender, ...attempts.map(({ serverMessageId }) => `${sender}:${serverMessageId}`)];
    const fingerprints = attempts.map(({ fingerprint }) => fingerprint);
    const args = [this.#router, atMs, SENDER_TTL_MS, ATTEMPT_TTL_MS, ...fingerprints];
    try {
      const [before, ...first] = (await this.#redis.run(BEGIN, keys, args)) as (string | null)[];
      const [latest = '0', router] = before?.split('/') ?? [];
      return {
        before: !before ? 'nobody' : router === this.#router ? 'here' : 'elsewhere',
        latestMs: Number(latest),
        first: first.map((fingerprint) => fingerprint ?? undefined),
      };
    } catch (error) {
      if (toMeshError(error).kind !== 'unavailable') this.#refused(error);
      return nothingKnown(attempts);
    }
  }
}

function nothingKnown(attempts: readonly Attempt[]): Attempted {
  return { before: 'unknown', latestMs: 0, first: attempts.map(() => undefined) };
}
