import { createHmac, randomInt, randomUUID } from 'node:crypto';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient } from '@chatmesh/mesh';
import type { Account } from './jobs.js';

/** The directory's limit for one call. */
const USERS_PER_CALL = 1_000;
const TOKEN_TTL_SECONDS = 86_400;
/** A thousand users and signatures take their time on a busy machine. */
const DEADLINE_MS = 60_000;

/** Makes users of a running mesh, and more devices of them. */
export class MeshUsers implements AsyncDisposable {
  readonly #client;
  readonly #secret: string;
  /** Fifteen digits, the most that a number may have: a random start, and room to count. */
  #nextNumber = 900_000_000_000_000 + randomInt(100_000_000) * 1_000_000;

  /**
   * @param address host and port of the user service.
   * @param secret the mesh's AUTH_HS256_SECRET.
   */
  constructor(address: string, secret: string) {
    this.#client = createClient(DirectoryService, { address, defaultDeadlineMs: DEADLINE_MS });
    this.#secret = secret;
  }

  async create(count: number): Promise<Account[]> {
    const accounts: Account[] = [];
    while (accounts.length < count) {
      const { users } = await this.#client.createUsers({
        contactNumber: `+${this.#nextNumber}`,
        name: 'Bench',
        count: Math.min(count - accounts.length, USERS_PER_CALL),
        tokenTtlSeconds: TOKEN_TTL_SECONDS,
      });
      this.#nextNumber += users.length;
      accounts.push(...users.map(({ userId, token }) => ({ userId, token })));
    }
    return accounts;
  }

  /** Tokens of devices that the mesh registers when they connect. */
  addDevices({ userId }: Account, count: number): Account[] {
    return Array.from({ length: count }, () => ({ userId, token: this.#token(userId, randomUUID()) }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.close();
  }

  #token(sub: string, did: string): string {
    const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const exp = Math.floor(Date.now() / 1000) + TOKEN_TTL_SECONDS;
    const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode({ sub, did, exp })}`;
    return `${signed}.${createHmac('sha256', this.#secret).update(signed).digest('base64url')}`;
  }
}
