import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { AdminService } from '@chatmesh/gen/user/v1/admin';
import { AuthService } from '@chatmesh/gen/user/v1/auth';
import { ContactService } from '@chatmesh/gen/user/v1/contact';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { GroupService } from '@chatmesh/gen/user/v1/group';
import { KeyService } from '@chatmesh/gen/user/v1/key';
import { SettingsService } from '@chatmesh/gen/user/v1/settings';
import { UserService as ProfileService } from '@chatmesh/gen/user/v1/user';
import {
  acquireLock,
  CONNECTION_AGE_MS,
  type DirectoryLock,
  GrpcServer,
  type Logger,
  MeshError,
  type Metrics,
  type Service,
  type ServiceDeps,
  untilAvailable,
  withDriver,
} from '@chatmesh/mesh';
import type { UserConfig } from './config.js';
import { adminRpc, directoryRpc, userRpc } from './rpc.js';
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
  readonly #logger: Logger;
  readonly #metrics: Metrics;
  readonly #server: GrpcServer;
  readonly #overrides: Partial<UserOverrides>;
  readonly #lock: DirectoryLock | undefined;
  readonly #stopping = new AbortController();
  /** Undefined until PostgreSQL has answered. */
  #store: UserStore | undefined;
  #starting: Promise<void> | undefined;
  #port = 0;
  #disposed: Promise<void> | undefined;

  private constructor(
    config: UserConfig,
    { logger, metrics, tls }: ServiceDeps,
    overrides: Partial<UserOverrides>,
    { store, lock }: { store?: UserStore; lock?: DirectoryLock },
  ) {
    this.#config = config;
    this.#logger = logger;
    this.#metrics = metrics;
    this.#server = new GrpcServer({ name: 'user', logger, metrics, tls, maxConnectionAgeMs: CONNECTION_AGE_MS });
    this.#overrides = overrides;
    this.#store = store;
    this.#lock = lock;
  }

  /**
   * Opens the embedded store under `DATA_DIR/user`, unless PostgreSQL is configured: that is connected to at the start.
   *
   * @throws MeshError `failed_precondition` naming the lock file when another process has the store open, and naming the
   * directory when its database is damaged.
   */
  static async create(
    config: UserConfig,
    deps: ServiceDeps,
    overrides: Partial<UserOverrides> = {},
  ): Promise<UserService> {
    const { store } = overrides;
    if (store || config.database) return new UserService(config, deps, overrides, { ...(store && { store }) });
    return new UserService(config, deps, overrides, await openEmbedded(config, deps));
  }

  /** The port listened on, once started. */
  get port(): number {
    return this.#port;
  }

  /** False while users cannot be read or written. */
  get ready(): boolean {
    return this.#store?.ready ?? false;
  }

  /**
   * Waits for PostgreSQL where it is configured, makes the first signing key if there is none, and listens.
   *
   * @throws MeshError `failed_precondition` with a sentence for the operator when PostgreSQL refuses the credentials or has
   * another schema than this version needs; `cancelled` when the service is drained meanwhile.
   */
  start(): Promise<void> {
    this.#starting = this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    const { host, port } = this.#config;
    const { now = Date.now, newId = randomUUID } = this.#overrides;
    const candidate = await newSigningKey(now());
    const [store, key] = await untilAvailable(
      'the user database',
      async () => {
        this.#store ??= await this.#connect();
        return [this.#store, (await this.#store.signingKeys(candidate))[0]] as const;
      },
      { signal: this.#stopping.signal, logger: this.#logger },
    );
    if (!key) throw new Error('the store has lost the signing key that it was given');
    const deps = { store, issuer: await TokenIssuer.create(key), now, newId };
    this.#server
      .add(DirectoryService, directoryRpc(deps))
      .add(AdminService, adminRpc(deps))
      .add(ProfileService, userRpc(deps))
      .add(AuthService, auth)
      .add(ContactService, contacts)
      .add(SettingsService, settings)
      .add(GroupService, groups)
      .add(KeyService, keys);
    if (this.#stopping.signal.aborted) throw new MeshError('cancelled', 'the service is stopping');
    this.#port = await this.#server.listen({ host, port, variable: 'USER_PORT' });
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#stopping.abort();
    await this.#server.drain(deadlineMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #connect(): Promise<UserStore> {
    const { database } = this.#config;
    if (!database) throw new Error('a service without PostgreSQL has its store from the beginning');
    const { PostgresEngine } = await withDriver('pg', () => import('./postgres.js'));
    return await SqlUserStore.open(await PostgresEngine.open(database, this.#logger, this.#metrics));
  }

  async #dispose(): Promise<void> {
    this.#stopping.abort();
    // It may be about to have connected; every attempt has a deadline.
    await this.#starting?.catch(() => {});
    await this.#server.close();
    await this.#store?.[Symbol.asyncDispose]();
    await this.#lock?.release();
  }
}

async function openEmbedded(
  { dataDir }: UserConfig,
  { logger, metrics }: ServiceDeps,
): Promise<{ store: UserStore; lock: DirectoryLock }> {
  const directory = join(dataDir, 'user');
  const lock = await acquireLock(directory);
  try {
    const engine = await PgliteEngine.open(join(directory, 'database'), logger, metrics);
    return { store: await SqlUserStore.open(engine), lock };
  } catch (error) {
    await lock.release();
    throw error;
  }
}
