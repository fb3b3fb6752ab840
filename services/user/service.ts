import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { AuthService } from '@chatmesh/gen/user/v1/auth';
import { ContactService } from '@chatmesh/gen/user/v1/contact';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { GroupService } from '@chatmesh/gen/user/v1/group';
import { KeyService } from '@chatmesh/gen/user/v1/key';
import { SettingsService } from '@chatmesh/gen/user/v1/settings';
import { UserService as ProfileService } from '@chatmesh/gen/user/v1/user';
import { acquireLock, type DirectoryLock, GrpcServer, type Logger, type Metrics, type Service } from '@chatmesh/mesh';
import type { UserConfig } from './config.js';
import { directoryRpc, userRpc } from './rpc.js';
import { PgliteEngine } from './stores/pglite-engine.js';
import { SqlUserStore } from './stores/sql-user-store.js';
import type { UserStore } from './stores/user-store.js';
import { newSigningKey, TokenIssuer } from './token-issuer.js';
import { auth, contacts, groups, keys, settings } from './unimplemented.js';

/** What a test may replace. */
export interface UserOverrides {
  readonly store: UserStore;
  readonly now: () => number;
  readonly newId: () => string;
}

/** Accounts, devices and the mesh's own tokens. */
export class UserService implements Service {
  readonly name = 'user';
  readonly #config: UserConfig;
  readonly #server: GrpcServer;
  readonly #store: UserStore;
  readonly #lock: DirectoryLock | undefined;
  #port = 0;
  #disposed: Promise<void> | undefined;

  private constructor(config: UserConfig, server: GrpcServer, store: UserStore, lock: DirectoryLock | undefined) {
    this.#config = config;
    this.#server = server;
    this.#store = store;
    this.#lock = lock;
  }

  /**
   * Opens the store, by default the embedded one under `DATA_DIR/user`, and makes the first signing key if there is none.
   *
   * @throws MeshError `failed_precondition` naming the lock file when another process has the store open, and naming the
   * directory when its database is damaged.
   */
  static async create(
    config: UserConfig,
    { logger, metrics }: { logger: Logger; metrics: Metrics },
    overrides: Partial<UserOverrides> = {},
  ): Promise<UserService> {
    const { now = Date.now, newId = randomUUID } = overrides;
    const { store, lock } = overrides.store
      ? { store: overrides.store, lock: undefined }
      : await openEmbedded(join(config.dataDir, 'user'), logger);
    try {
      const [key] = await store.signingKeys(await newSigningKey(now()));
      if (!key) throw new Error('the store has lost the signing key that it was given');
      const deps = { store, issuer: await TokenIssuer.create(key), now, newId };
      const server = new GrpcServer({ name: 'user', logger, metrics })
        .add(DirectoryService, directoryRpc(deps))
        .add(ProfileService, userRpc(deps))
        .add(AuthService, auth)
        .add(ContactService, contacts)
        .add(SettingsService, settings)
        .add(GroupService, groups)
        .add(KeyService, keys);
      return new UserService(config, server, store, lock);
    } catch (error) {
      await store[Symbol.asyncDispose]();
      await lock?.release();
      throw error;
    }
  }

  /** The port listened on, once started. */
  get port(): number {
    return this.#port;
  }

  /** False while users cannot be read or written. */
  get ready(): boolean {
    return this.#store.ready;
  }

  async start(): Promise<void> {
    const { host, port } = this.#config;
    this.#port = await this.#server.listen({ host, port, variable: 'USER_PORT' });
  }

  async drain(deadlineMs: number): Promise<void> {
    await this.#server.drain(deadlineMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    await this.#server.close();
    await this.#store[Symbol.asyncDispose]();
    await this.#lock?.release();
  }
}

async function openEmbedded(directory: string, logger: Logger): Promise<{ store: UserStore; lock: DirectoryLock }> {
  const lock = await acquireLock(directory);
  try {
    return { store: await SqlUserStore.open(await PgliteEngine.open(join(directory, 'database'), logger)), lock };
  } catch (error) {
    await lock.release();
    throw error;
  }
}
