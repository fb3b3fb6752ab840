import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  DirectoryLocks,
  type Logger,
  type MeshClock,
  MeshError,
  type Metrics,
  type RedisConfig,
  type ServiceDeps,
  toMeshError,
  untilAvailable,
  type WallClock,
  withDriver,
  writeOnce,
} from '@chatmesh/mesh';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import type { ChatConfig, PulsarConfig, ScyllaConfig } from './config.js';
import type { SharedTokens } from './domain/token-bucket.js';
import type { Attempts } from './stores/attempts.js';
import { exposeBacklog } from './stores/backlog.js';
import { CountedInboxStore } from './stores/counted-inbox-store.js';
import type { InboxRow, InboxStore } from './stores/inbox-store.js';
import { LmdbInboxStore } from './stores/lmdb-inbox-store.js';
import { LmdbMessageLog } from './stores/lmdb-message-log.js';
import { LmdbStatusStore } from './stores/lmdb-status-store.js';
import type { MessageLog } from './stores/message-log.js';
import type { StatusStore } from './stores/status-store.js';

/** What the router works on. */
export interface Stores {
  readonly log: MessageLog;
  readonly deadLetters: MessageLog;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
  /** Undefined where no other router works on the same log. */
  readonly attempts: Attempts | undefined;
  /** Undefined where no other router accepts messages, or Redis is not there to share them. */
  readonly sendTokens: SharedTokens | undefined;
}

type Closing = (() => Promise<unknown> | unknown)[];

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

interface OpenOptions {
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly signal: AbortSignal;
  readonly closing: Closing;
  /** The time at which messages are accepted. */
  readonly clock: MeshClock;
  /** As the cache of inboxes needs it. */
  readonly tenureOf: (userId: string) => number | undefined;
  /** Deals with a row of an inbox that is damaged. */
  readonly damagedRow: (row: InboxRow) => Promise<void>;
}

const KEY_FILE = 'fingerprint.key';
const KEY_BYTES = 32;

/**
 * Opens what lives under `DATA_DIR/chat`; undefined where nothing does. What is opened is closed through `closing`.
 *
 * @throws MeshError `failed_precondition` naming the file when another process holds it or it is damaged.
 */
export async function openEmbedded(
  config: ChatConfig,
  { logger, metrics, locks = new DirectoryLocks() }: ServiceDeps,
  overrides: Partial<Stores>,
  closing: Closing,
): Promise<LmdbEnvironment | undefined> {
  const logElsewhere = (overrides.log && overrides.deadLetters) || config.pulsar;
  const storesElsewhere = (overrides.inbox && overrides.statuses) || config.scylla;
  if (logElsewhere && storesElsewhere && config.fingerprintKey) return undefined;
  const directory = directoryOf(config);
  const lock = await locks.take(directory);
  closing.push(() => lock.release());
  if (!config.fingerprintKey) makeKey(directory);
  const environment = LmdbEnvironment.open(directory, { metrics, logger });
  closing.push(() => environment[Symbol.asyncDispose]());
  return environment;
}

/**
 * The stores that the configuration names, as soon as their engines answer: this is the only place that picks them.
 *
 * @throws MeshError `failed_precondition` with what the operator has to do, `cancelled` when the signal fires.
 */
export async function openStores(
  config: ChatConfig,
  environment: LmdbEnvironment | undefined,
  overrides: Partial<Stores>,
  { logger, metrics, signal, closing, clock, tenureOf, damagedRow }: OpenOptions,
): Promise<Stores> {
  const opened: Partial<Mutable<Stores>> = { ...overrides };
  const now = () => clock.now();
  if (config.pulsar && !(opened.log && opened.deadLetters)) {
    const { pulsar } = config;
    Object.assign(
      opened,
      await untilAvailable('Pulsar', () => openPulsar(pulsar, { logger, metrics, signal, closing, clock }), {
        signal,
        logger,
      }),
    );
  }
  if (config.scylla && !(opened.inbox && opened.statuses)) {
    const { scylla } = config;
    const stores = await untilAvailable('ScyllaDB', () => openScylla(scylla, metrics, closing, now), {
      signal,
      logger,
    });
    opened.inbox ??= stores.inbox;
    opened.statuses ??= stores.statuses;
  }
  if (environment) {
    opened.statuses ??= new LmdbStatusStore(environment);
    opened.inbox ??= new LmdbInboxStore(environment, damagedRow);
    // What acceptance records goes out with the group commit of the events where both share it.
    const recordsTogether = opened.statuses instanceof LmdbStatusStore && !overrides.statuses;
    const logs: [topic: string, log: LmdbMessageLog][] = [];
    const openLog = (topic: string, log: LmdbMessageLog) => {
      logs.push([topic, log]);
      return disposing(closing, log);
    };
    opened.log ??= openLog(EVENTS_TOPIC, LmdbMessageLog.open(environment, 'log', { recordsTogether, now }));
    opened.deadLetters ??= openLog(DEAD_LETTERS_TOPIC, LmdbMessageLog.open(environment, 'dead', { now }));
    if (logs.length > 0) exposeBacklog(metrics, () => logs.map(([topic, log]) => [topic, log.backlog] as const));
  }
  if (config.redis) await useRedis(config.redis, opened, { config, overrides, logger, metrics, closing, tenureOf });
  else exposePagesFromCache(metrics, () => 0);
  if (opened.inbox) opened.inbox = new CountedInboxStore(opened.inbox, metrics);
  return opened as Stores;
}

/** Puts the cache before the inbox store, and attempts and rates where routers share the log. A Redis that does not answer is done without. */
async function useRedis(
  redisConfig: RedisConfig,
  opened: Partial<Mutable<Stores>>,
  options: Omit<OpenOptions, 'signal' | 'clock' | 'damagedRow'> & { config: ChatConfig; overrides: Partial<Stores> },
): Promise<void> {
  const { config, overrides, logger, metrics, closing, tenureOf } = options;
  const { RedisClient } = await withDriver('ioredis', () => import('@chatmesh/mesh/redis'));
  const { CachedInboxStore, RedisAttempts, RedisTokens } = await import('./redis.js');
  const redis = disposing(closing, await RedisClient.open(redisConfig, { logger, metrics }));
  if (config.pulsar) {
    opened.attempts ??= new RedisAttempts(redis, (error) =>
      logger.error({ reason: toMeshError(error).message }, 'Redis refused to note a message'),
    );
    opened.sendTokens ??= new RedisTokens(redis);
  }
  const maxRows = config.redisInboxRows;
  if (!opened.inbox || overrides.inbox || maxRows === 0) {
    exposePagesFromCache(metrics, () => 0);
    return;
  }
  const store = disposing(closing, new CachedInboxStore(opened.inbox, { redis, maxRows, tenureOf, logger }));
  opened.inbox = store;
  exposePagesFromCache(metrics, () => store.hits);
}

function exposePagesFromCache(metrics: Metrics, count: () => number): void {
  const name = 'chatmesh_inbox_pages_from_cache_total';
  metrics.counter({ name, help: 'Pages of inboxes that came from Redis; 0 without.' }, count);
}

/** The key of the fingerprints in status records: all routers on the same stores need the same one. */
export function fingerprintKeyOf(config: ChatConfig): Buffer {
  return config.fingerprintKey ?? storedKey(directoryOf(config));
}

async function openPulsar(
  config: PulsarConfig,
  { logger, metrics, signal, closing, clock }: Omit<OpenOptions, 'tenureOf' | 'damagedRow'>,
): Promise<Pick<Stores, 'log' | 'deadLetters'>> {
  const { PulsarAdmin, PulsarClient } = await import('@chatmesh/mesh/pulsar');
  const { PulsarMessageLog } = await import('./stores/pulsar-message-log.js');
  const { PulsarBacklog } = await import('./stores/pulsar-backlog.js');
  const admin = new PulsarAdmin({ ...config, url: config.adminUrl });
  const client = await PulsarClient.create({ ...config, logger, metrics });
  try {
    const topic = (name: string) => topicOf(config, name);
    const { epoch } = config;
    const shared = { epoch, admin, now: () => clock.now(), logger };
    const backlogLimit = { maxBytes: config.backlogBytes };
    const log = await PulsarMessageLog.open(client, { topic: topic(EVENTS_TOPIC), backlog: backlogLimit, ...shared });
    // Nobody's messages are accepted for it: whether it is full is never asked.
    const deadLetters = await PulsarMessageLog.open(client, { topic: topic(DEAD_LETTERS_TOPIC), ...shared });
    closing.push(() => client.close());
    disposing(closing, log);
    disposing(closing, deadLetters);
    const topics = { [EVENTS_TOPIC]: topic(EVENTS_TOPIC), [DEAD_LETTERS_TOPIC]: topic(DEAD_LETTERS_TOPIC) };
    const backlog = new PulsarBacklog({ admin, topics, logger, metrics });
    closing.push(() => backlog.close());
    return { log, deadLetters };
  } catch (error) {
    await client.close();
    throw await admin.explain(error, { signal });
  }
}

async function openScylla(
  config: ScyllaConfig,
  metrics: Metrics,
  closing: Closing,
  now: WallClock,
): Promise<Pick<Stores, 'inbox' | 'statuses'>> {
  const { Cassandra } = await withDriver('cassandra-driver', () => import('@chatmesh/mesh/cassandra'));
  const { CassandraInboxStore, CassandraStatusStore, checkSchema } = await import('./scylla.js');
  const cassandra = await Cassandra.connect(config, metrics);
  try {
    await checkSchema(cassandra);
  } catch (error) {
    await cassandra[Symbol.asyncDispose]();
    throw error;
  }
  disposing(closing, cassandra);
  return { inbox: new CassandraInboxStore(cassandra, { now }), statuses: new CassandraStatusStore(cassandra) };
}

/**
 * The broker's own limit, of ours. It must not be reached: a broker that refuses everything also refuses receipts and the claims
 * of owners, without which nothing that waits is delivered.
 */
const HARD_LIMIT = 2;
const EVENTS_TOPIC = 'events';
const DEAD_LETTERS_TOPIC = 'dead-letters';

function topicOf({ namespace }: PulsarConfig, name: string): string {
  return `persistent://${namespace}/${name}`;
}

/**
 * Prepares Pulsar for the routers: namespace, topics and subscriptions. Doing it again changes nothing.
 *
 * @returns what was done, as the end of a sentence.
 * @throws MeshError `unavailable`, or `failed_precondition` with what the operator has to do.
 */
export async function migrateLog(config: PulsarConfig): Promise<string> {
  const { PulsarAdmin } = await import('@chatmesh/mesh/pulsar');
  const { SUBSCRIPTION } = await import('./stores/pulsar-message-log.js');
  const admin = new PulsarAdmin({ ...config, url: config.adminUrl });
  const { backlogBytes, retentionHours } = config;
  await admin.prepareNamespace(config.namespace, { backlogBytes: backlogBytes * HARD_LIMIT, retentionHours });
  const topic = (name: string) => topicOf(config, name);
  const prepare = (name: string, partitions: number) =>
    admin.prepareTopic(topic(name), { partitions, subscription: SUBSCRIPTION });
  const partitions = await prepare(EVENTS_TOPIC, config.partitions);
  await prepare(DEAD_LETTERS_TOPIC, 1);
  if (partitions !== config.partitions) {
    // Another number would send users to other partitions, past what waits for them in the old ones.
    throw new MeshError(
      'failed_precondition',
      `the topic ${topic(EVENTS_TOPIC)} has ${partitions} partitions and keeps them: set PULSAR_PARTITIONS=${partitions}`,
    );
  }
  return `has its topics under ${config.namespace}, with ${partitions} partitions`;
}

function directoryOf(config: ChatConfig): string {
  return join(config.dataDir, 'chat');
}

function disposing<T extends AsyncDisposable>(closing: Closing, disposable: T): T {
  closing.push(() => disposable[Symbol.asyncDispose]());
  return disposable;
}

/**
 * Makes the key of the fingerprints at the first start, before there is any data: beside data, a new one would make every repeat
 * of an accepted message look like another message.
 *
 * @throws MeshError `failed_precondition` naming the file where it is missing beside data.
 */
function makeKey(directory: string): void {
  const file = join(directory, KEY_FILE);
  if (existsSync(file)) return;
  if (LmdbEnvironment.existsIn(directory)) throw withoutKey(file, 'is missing beside the data that it belongs to');
  writeOnce(file, randomBytes(KEY_BYTES), { mode: 0o600 });
}

function storedKey(directory: string): Buffer {
  const file = join(directory, KEY_FILE);
  const key = readFileSync(file);
  if (key.length !== KEY_BYTES) throw withoutKey(file, `is damaged (${KEY_BYTES} bytes expected, ${key.length} found)`);
  return key;
}

function withoutKey(file: string, why: string): MeshError {
  return new MeshError(
    'failed_precondition',
    `the key file ${file} ${why}: restore it from a backup, or set CHAT_FINGERPRINT_KEY if that held the key before; if it is lost, make a new one with: openssl rand -out ${file} ${KEY_BYTES}, and repeats of messages that were accepted before are refused as already_exists`,
  );
}
