import { AdminService } from '@chatmesh/gen/chat/v1/admin';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import {
  atMost,
  GrpcServer,
  type Logger,
  MeshClock,
  MeshError,
  monotonicMs,
  type Service,
  type ServiceDeps,
  type WallClock,
} from '@chatmesh/mesh';
import type { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { adminRpc } from './admin-rpc.js';
import type { ChatConfig } from './config.js';
import { fingerprintKeyOf, openEmbedded, openStores, type Stores } from './engines.js';
import { exposeRouter } from './metrics.js';
import { Router } from './router.js';
import { GrpcDirectory, GrpcSessions } from './routing/clients.js';
import type { DirectoryClient } from './routing/directory.js';
import type { Owner, OwnerOptions, SessionFinder } from './routing/owner.js';
import { internalRpc, routerRpc } from './rpc.js';
import type { MessageLog } from './stores/message-log.js';

const RATE_SWEEP_MS = 10_000;
/** How long submissions that are under way get to be accepted when the service is closed without a drain, milliseconds. */
const IN_FLIGHT_MS = 2_000;
/** More than routers' clocks differ by. */
const FAR_BEHIND_MS = 10_000;

/** What a test may replace. */
export interface ChatOverrides extends Stores {
  readonly directory: DirectoryClient;
  /** How long the router goes by what it knows of a user. */
  readonly directoryMaxAgeMs: number;
  readonly presence: SessionFinder;
  readonly now: WallClock;
  readonly owner: Partial<OwnerOptions>;
}

/** The router: accepts messages onto the log and delivers what the log hands it. */
export class ChatService implements Service {
  readonly name = 'chat';
  readonly #config: ChatConfig;
  readonly #deps: ServiceDeps;
  readonly #overrides: Partial<ChatOverrides>;
  readonly #environment: LmdbEnvironment | undefined;
  readonly #server: GrpcServer;
  readonly #closing: (() => Promise<unknown> | unknown)[];
  readonly #stopping = new AbortController();
  #router: Router | undefined;
  #starting: Promise<void> | undefined;
  #rateTimer: NodeJS.Timeout | undefined;
  #port = 0;
  #disposed: Promise<void> | undefined;

  private constructor(
    config: ChatConfig,
    deps: ServiceDeps,
    overrides: Partial<ChatOverrides>,
    environment: LmdbEnvironment | undefined,
    closing: (() => Promise<unknown> | unknown)[],
  ) {
    this.#config = config;
    this.#deps = deps;
    this.#overrides = overrides;
    this.#environment = environment;
    this.#closing = closing;
    this.#server = new GrpcServer({ name: 'chat', ...deps });
  }

  /**
   * Opens the embedded stores, where some are used, under `DATA_DIR/chat`; real engines are connected to at the start.
   *
   * @throws MeshError `failed_precondition` naming the file when another process holds them or a data file is damaged, and
   * saying what to change when Redis refuses this client.
   */
  static async create(
    config: ChatConfig,
    deps: ServiceDeps,
    overrides: Partial<ChatOverrides> = {},
  ): Promise<ChatService> {
    const closing: (() => Promise<unknown> | unknown)[] = [];
    try {
      return new ChatService(config, deps, overrides, await openEmbedded(config, deps, overrides, closing), closing);
    } catch (error) {
      for (const release of closing.reverse()) await release();
      throw error;
    }
  }

  get owner(): Owner {
    return this.#running().owner;
  }

  get sweeper(): Router['sweeper'] {
    return this.#running().sweeper;
  }

  get port(): number {
    return this.#port;
  }

  /** False while messages cannot be made durable. */
  get ready(): boolean {
    return this.#router?.stores.log.writable ?? false;
  }

  /**
   * Waits for the real engines, if any, takes up what is on the log, and listens.
   *
   * @throws MeshError `failed_precondition` with a sentence for the operator, `cancelled` when the service is drained meanwhile.
   */
  start(): Promise<void> {
    this.#starting = this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    const router = await this.#open();
    this.#router = router;
    // What is on the log is taken up before anything new can be accepted, so that a repeat finds its status record.
    await router.owner.start();
    if (this.#stopping.signal.aborted) throw new MeshError('cancelled', 'the service is stopping');
    this.#port = await this.#server.listen({ host: this.#config.host, port: this.#config.port, variable: 'CHAT_PORT' });
    router.sweeper.start();
    this.#rateTimer = setInterval(() => router.rates.sweep(monotonicMs()), RATE_SWEEP_MS).unref();
  }

  async drain(deadlineMs: number): Promise<void> {
    this.#stopping.abort();
    const draining = this.#server.drain(deadlineMs);
    if (this.#router) {
      const { ingress, owner } = this.#router;
      owner.leave();
      await ingress.drain();
      await owner.settled();
      // Edges keep their streams for as long as they may: nothing else would end these calls before the deadline.
      owner.endLinks();
    }
    await draining;
    // What sessions had not confirmed has gone to the inboxes.
    await this.#router?.owner.settled();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  /** Stops in the order in which one relies on the other: calls, what they have begun, whatever works by itself, the stores. */
  async #dispose(): Promise<void> {
    this.#stopping.abort();
    await this.#starting?.catch(() => {});
    await Promise.all([this.#server.close(), this.#router && atMost(IN_FLIGHT_MS, this.#router.ingress.drain())]);
    clearInterval(this.#rateTimer);
    const swept = this.#router?.sweeper.stop();
    // A sweep may wait out an outage: that ends with the owner.
    await this.#router?.owner.stop();
    await swept;
    for (const release of this.#closing.reverse()) await release();
  }

  #running(): Router {
    if (!this.#router) throw new Error('the service has not started');
    return this.#router;
  }

  async #open(): Promise<Router> {
    const config = this.#config;
    const { logger, metrics, tls, traces } = this.#deps;
    const overrides = this.#overrides;
    const closing = this.#closing;
    const now = overrides.now ?? Date.now;
    const clock = new MeshClock(now);
    const stores = await openStores(config, this.#environment, overrides, {
      logger,
      metrics,
      signal: this.#stopping.signal,
      closing,
      clock,
      tenureOf: (userId) => this.#router?.owner.tenureOf(userId),
      damagedRow: (row) => this.owner.damagedRow(row),
    });
    followLog(clock, stores.log, config.timestampsMayGoBack, logger);
    const directory =
      overrides.directory ?? closed(closing, new GrpcDirectory({ address: config.userAddress, logger, tls }));
    const presence =
      overrides.presence ?? closed(closing, new GrpcSessions({ address: config.presenceAddress, logger, tls }));
    const { directoryMaxAgeMs, owner: options } = overrides;
    const fingerprintKey = fingerprintKeyOf(config);
    const deps = { config, fingerprintKey, stores, directory, directoryMaxAgeMs, presence, clock, now, logger, traces };
    const router = new Router({ ...deps, options });
    this.#server
      .add(RouterService, routerRpc(router.rpc))
      .add(InternalChatService, internalRpc(router.rpc))
      .add(AdminService, adminRpc({ ...router.rpc, presence }));
    exposeRouter(metrics, router);
    return router;
  }
}

function closed<T extends { close(): void }>(closing: (() => unknown)[], closable: T): T {
  closing.push(() => closable.close());
  return closable;
}

/** Lets the time of acceptance go on from what the log has seen. Says so where that is far from this machine's clock: one of the two is wrong. */
function followLog(clock: MeshClock, log: MessageLog, mayGoBack: boolean, logger: Logger): void {
  const latestAt = new Date(log.publishedUntilMs).toISOString();
  const behindMs = log.publishedUntilMs - clock.now();
  if (mayGoBack) {
    logger.warn(
      { latestAt },
      "timestamps may go back to this machine's clock: unset TIMESTAMPS_MAY_GO_BACK for the next start",
    );
    return;
  }
  clock.goOnFrom(log.publishedUntilMs);
  if (behindMs > FAR_BEHIND_MS)
    logger.error(
      { latestAt, behindMs },
      "this machine's clock is behind the last messages: new ones bear their time until it has caught up. Where that time is wrong, start once with TIMESTAMPS_MAY_GO_BACK=true",
    );
}
