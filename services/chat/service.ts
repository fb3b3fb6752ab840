import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import { acquireLock, GrpcServer, type Logger, MeshError, type Metrics, type Service } from '@chatmesh/mesh';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import type { ChatConfig } from './config.js';
import { monotonic } from './domain/clock.js';
import { Fingerprinter } from './domain/fingerprint.js';
import { TokenBuckets } from './domain/token-bucket.js';
import { GrpcDirectory, GrpcSessions } from './routing/clients.js';
import { CachedDirectory, type DirectoryClient } from './routing/directory.js';
import { Ingress } from './routing/ingress.js';
import { OWNER_DEFAULTS, Owner, type OwnerOptions, type SessionFinder } from './routing/owner.js';
import { Sweeper } from './routing/sweeper.js';
import { internalRpc, routerRpc } from './rpc.js';
import type { InboxStore } from './stores/inbox-store.js';
import { LmdbInboxStore } from './stores/lmdb-inbox-store.js';
import { LmdbMessageLog } from './stores/lmdb-message-log.js';
import { LmdbStatusStore } from './stores/lmdb-status-store.js';
import type { MessageLog } from './stores/message-log.js';
import type { StatusStore } from './stores/status-store.js';

const KEY_BYTES = 32;
const RATE_SWEEP_MS = 10_000;

/** What a test may replace. */
export interface ChatOverrides {
  readonly log: MessageLog;
  readonly deadLetters: MessageLog;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
  readonly directory: DirectoryClient;
  readonly presence: SessionFinder;
  readonly now: () => number;
  readonly owner: Partial<OwnerOptions>;
}

/** The router: accepts messages onto the log and delivers what the log hands it. */
export class ChatService implements Service {
  readonly name = 'chat';
  readonly sweeper: Sweeper;
  readonly owner: Owner;
  readonly #config: ChatConfig;
  readonly #server: GrpcServer;
  readonly #ingress: Ingress;
  readonly #rates: TokenBuckets;
  readonly #log: MessageLog;
  readonly #close: (() => Promise<unknown> | unknown)[];
  #rateTimer: NodeJS.Timeout | undefined;
  #port = 0;
  #disposed: Promise<void> | undefined;

  private constructor(
    config: ChatConfig,
    deps: Omit<ChatOverrides, 'owner'> & { owner: OwnerOptions; key: Buffer; logger: Logger; metrics: Metrics },
    close: (() => Promise<unknown> | unknown)[],
  ) {
    const { log, deadLetters, inbox, statuses, presence, logger, metrics } = deps;
    const now = monotonic(deps.now);
    const directory = new CachedDirectory(deps.directory, now);
    this.#config = config;
    this.#close = close;
    this.#log = log;
    this.#rates = new TokenBuckets({ rate: config.sendRate, burst: config.sendBurst });
    this.#ingress = new Ingress({
      log,
      statuses,
      directory,
      fingerprints: new Fingerprinter(deps.key),
      rates: this.#rates,
      now,
    });
    this.owner = new Owner({
      log,
      deadLetters,
      inbox,
      statuses,
      directory,
      presence,
      now,
      logger,
      options: deps.owner,
    });
    this.sweeper = new Sweeper({ owner: this.owner, inbox, statuses, now, logger });
    const rpc = { ingress: this.#ingress, owner: this.owner, directory, log, inbox, statuses };
    this.#server = new GrpcServer({ name: 'chat', logger, metrics })
      .add(RouterService, routerRpc(rpc))
      .add(InternalChatService, internalRpc(rpc));
    const latency = metrics.histogram({
      name: 'chatmesh_accept_to_transmit_seconds',
      help: 'From the acceptance of a message to its transmission to a device.',
      buckets: [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 60],
    });
    this.owner.onTransmitted = ({ acceptedAtMs }) => latency.observe((now() - Number(acceptedAtMs)) / 1000);
    metrics.gauge(
      { name: 'chatmesh_log_backlog', help: 'Events on the log that are not handled yet.' },
      () => log.backlog,
    );
    metrics.gauge(
      { name: 'chatmesh_recipients', help: 'Users with an actor on this router.' },
      () => this.owner.recipients,
    );
  }

  /**
   * Opens the stores under `DATA_DIR/chat`, and the cache of inboxes where Redis has an address. A Redis that does not answer
   * is done without.
   *
   * @throws MeshError `failed_precondition` naming the file when another process holds them or a data file is damaged, and
   * saying what to change when Redis refuses this client.
   */
  static async create(
    config: ChatConfig,
    deps: { logger: Logger; metrics: Metrics },
    overrides: Partial<ChatOverrides> = {},
  ): Promise<ChatService> {
    const close: (() => Promise<unknown> | unknown)[] = [];
    try {
      const directoryPath = join(config.dataDir, 'chat');
      const lock = await acquireLock(directoryPath);
      close.push(() => lock.release());
      const environment = LmdbEnvironment.open(directoryPath);
      close.push(() => environment[Symbol.asyncDispose]());
      // What a test hands in is the test's to close.
      const log =
        overrides.log ??
        disposing(close, LmdbMessageLog.open(environment, 'log', { recordsTogether: !overrides.statuses }));
      const deadLetters = overrides.deadLetters ?? disposing(close, LmdbMessageLog.open(environment, 'dead'));
      const directory =
        overrides.directory ?? closing(close, new GrpcDirectory({ address: config.userAddress, logger: deps.logger }));
      const presence =
        overrides.presence ??
        closing(close, new GrpcSessions({ address: config.presenceAddress, logger: deps.logger }));
      let service: ChatService | undefined;
      const tenureOf = (userId: string) => service?.owner.tenureOf(userId);
      const inbox =
        overrides.inbox ??
        disposing(close, await cached(new LmdbInboxStore(environment), config, { ...deps, tenureOf }));
      service = new ChatService(
        config,
        {
          ...deps,
          log,
          deadLetters,
          inbox,
          statuses: overrides.statuses ?? new LmdbStatusStore(environment),
          directory,
          presence,
          now: overrides.now ?? Date.now,
          owner: {
            ...OWNER_DEFAULTS,
            deliveryRetries: config.deliveryRetries,
            deliveryRetryMs: config.deliveryRetryMs,
            ...overrides.owner,
          },
          key: fingerprintKey(directoryPath),
        },
        close,
      );
      return service;
    } catch (error) {
      for (const release of close.reverse()) await release();
      throw error;
    }
  }

  get port(): number {
    return this.#port;
  }

  /** False while messages cannot be made durable. */
  get ready(): boolean {
    return this.#log.writable;
  }

  async start(): Promise<void> {
    // What is on the log is taken up before anything new can be accepted, so that a repeat finds its status record.
    await this.owner.start();
    this.#port = await this.#server.listen({ host: this.#config.host, port: this.#config.port, variable: 'CHAT_PORT' });
    this.sweeper.start();
    this.#rateTimer = setInterval(() => this.#rates.sweep(Date.now()), RATE_SWEEP_MS).unref();
  }

  async drain(deadlineMs: number): Promise<void> {
    const draining = this.#server.drain(deadlineMs);
    await this.#ingress.drain();
    await this.owner.settled();
    // Edges keep their streams for as long as they may: nothing else would end these calls before the deadline.
    this.owner.endLinks();
    await draining;
    // What sessions had not confirmed has gone to the inboxes.
    await this.owner.settled();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    clearInterval(this.#rateTimer);
    this.sweeper.stop();
    await this.#server.close();
    await this.owner.stop();
    for (const release of this.#close.reverse()) await release();
  }
}

function closing<T extends { close(): void }>(close: (() => unknown)[], closable: T): T {
  close.push(() => closable.close());
  return closable;
}

function disposing<T extends AsyncDisposable>(close: (() => unknown)[], disposable: T): T {
  close.push(() => disposable[Symbol.asyncDispose]());
  return disposable;
}

/** Puts the cache before an inbox store where Redis has an address. */
async function cached(
  inbox: InboxStore,
  { redis: redisConfig, redisInboxRows: maxRows }: ChatConfig,
  deps: { logger: Logger; metrics: Metrics; tenureOf: (userId: string) => number | undefined },
): Promise<InboxStore> {
  if (!redisConfig || maxRows === 0) return inbox;
  // Loaded only where it is used: the driver costs memory and time at start.
  const { RedisClient } = await import('@chatmesh/mesh/redis');
  const { CachedInboxStore } = await import('./stores/cached-inbox-store.js');
  const store = new CachedInboxStore(inbox, { ...deps, maxRows, redis: await RedisClient.open(redisConfig, deps) });
  const name = 'chatmesh_inbox_pages_from_cache';
  deps.metrics.gauge({ name, help: 'Pages of inboxes that came from Redis since the start.' }, () => store.hits);
  return store;
}

/** The key of the fingerprints in status records, made at the first start and kept beside the data. */
function fingerprintKey(directory: string): Buffer {
  const file = join(directory, 'fingerprint.key');
  if (!existsSync(file)) {
    mkdirSync(directory, { recursive: true });
    writeFileSync(file, randomBytes(KEY_BYTES), { mode: 0o600 });
  }
  const key = readFileSync(file);
  if (key.length !== KEY_BYTES)
    throw new MeshError(
      'failed_precondition',
      `the key file ${file} is damaged: ${KEY_BYTES} bytes expected, ${key.length} found`,
    );
  return key;
}
