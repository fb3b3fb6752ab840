import { PresenceService as PublicService } from '@chatmesh/gen/presence/v1/presence';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import {
  CONNECTION_AGE_MS,
  GrpcServer,
  type Logger,
  type Metrics,
  type RedisConfig,
  type Service,
  type ServiceDeps,
  withDriver,
} from '@chatmesh/mesh';
import type { PresenceConfig } from './config.js';
import { presenceRpc, sessionRpc } from './rpc.js';
import { MemoryPresenceStore } from './stores/memory-presence-store.js';
import type { PresenceStore } from './stores/presence-store.js';

/** What a test may replace. */
export interface PresenceOverrides {
  readonly store: PresenceStore;
  readonly now: () => number;
}

/** Which devices are connected where, and when users were last seen. */
export class PresenceService implements Service {
  readonly name = 'presence';
  readonly #config: PresenceConfig;
  readonly #server: GrpcServer;
  readonly #store: PresenceStore;
  #port = 0;
  #disposed: Promise<void> | undefined;

  private constructor(config: PresenceConfig, server: GrpcServer, store: PresenceStore) {
    this.#config = config;
    this.#server = server;
    this.#store = store;
  }

  /**
   * Opens the store: the one in Redis where its address is set, else the one in memory. A Redis that does not answer yet is
   * tried again, and the service is not ready until it does.
   *
   * @throws MeshError `failed_precondition` saying what to change when Redis refuses this client.
   */
  static async create(
    config: PresenceConfig,
    { logger, metrics, tls }: ServiceDeps,
    { store, now = Date.now }: Partial<PresenceOverrides> = {},
  ): Promise<PresenceService> {
    const opened =
      store ?? (config.redis ? await openRedis(config.redis, now, { logger, metrics }) : openMemory(now, metrics));
    const server = new GrpcServer({ name: 'presence', logger, metrics, tls, maxConnectionAgeMs: CONNECTION_AGE_MS })
      .add(SessionService, sessionRpc(opened))
      .add(PublicService, presenceRpc);
    return new PresenceService(config, server, opened);
  }

  /** The port listened on, once started. */
  get port(): number {
    return this.#port;
  }

  /** False while the store does not answer. */
  get ready(): boolean {
    return this.#store.ready;
  }

  async start(): Promise<void> {
    const { host, port } = this.#config;
    this.#port = await this.#server.listen({ host, port, variable: 'PRESENCE_PORT' });
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
  }
}

async function openRedis(
  config: RedisConfig,
  now: () => number,
  deps: { logger: Logger; metrics: Metrics },
): Promise<PresenceStore> {
  // Loaded only where it is used: the driver costs memory and time at start.
  const { RedisClient } = await withDriver('ioredis', () => import('@chatmesh/mesh/redis'));
  const { RedisPresenceStore } = await import('./stores/redis-presence-store.js');
  return new RedisPresenceStore({ redis: await RedisClient.open(config, deps), now });
}

function openMemory(now: () => number, metrics: Metrics): PresenceStore {
  const store = new MemoryPresenceStore({ now });
  const options = { name: 'chatmesh_live_sessions', help: 'Sessions at edges whose lease lives.' };
  metrics.gauge(options, () => store.size);
  return store;
}
