import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Cluster, Command, Redis } from 'ioredis';
import { inTime } from './abort.js';
import { readCa } from './ca-file.js';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { type Logger, Metrics } from './observe.js';
import { RedisChannels } from './redis-channels.js';
import type { RedisConfig } from './redis-config.js';
import { isRedirection, redisError, startsWith } from './redis-errors.js';

/** Every command is answered, or has failed, after this long. */
export const REDIS_DEADLINE_MS = 1_000;
const CONNECT_TIMEOUT_MS = 2_000;
const MIN_RETRY_MS = 50;
const MAX_RETRY_MS = 2_000;
/** How often an idle connection is tried, so that readiness is not a memory. */
const PING_EVERY_MS = 2_000;
/** Commands without an answer, of everybody together; more are refused, so that a slow Redis does not fill the memory. */
const MAX_IN_FLIGHT = 20_000;
const MAX_REDIRECTIONS = 4;
/** For so long at the most, changes on slots that have moved are not told. */
const SUBSCRIBED_SLOTS_MS = 5_000;

type Argument = string | number | Buffer;

/** What the driver has and does not declare. */
interface BufferScripts {
  evalshaBuffer(sha: string, keys: number, ...args: Argument[]): Promise<unknown>;
}

/** A Lua script, from a file whose header lists KEYS and ARGV. */
export class RedisScript {
  readonly text: string;
  readonly sha: string;

  constructor(file: URL) {
    this.text = readFileSync(file, 'utf8');
    this.sha = createHash('sha1').update(this.text).digest('hex');
  }
}

/**
 * A connection to one Redis, to the master that sentinels name, or to a cluster. It connects again by itself, waiting 50 ms to
 * 2 s in between.
 *
 * Commands that are given in one turn of the event loop travel together. A command is answered within
 * {@link REDIS_DEADLINE_MS} or fails; without a connection it fails at once. All throw MeshError: `unavailable` when Redis
 * does not answer or cannot serve at present (the command may or may not have been carried out), `failed_precondition`
 * when Redis refuses this client, `internal` when it does not understand the command.
 */
export class RedisClient implements AsyncDisposable {
  /** What every key is to begin with. */
  readonly prefix: string;
  readonly #client: Redis | Cluster;
  readonly #channels: RedisChannels;
  readonly #logger: Logger;
  readonly #ping: NodeJS.Timeout;
  readonly #commands: EngineOperation;
  readonly #scripts: EngineOperation;
  #inFlight = 0;
  #losses = 0;
  #reason = 'no connection yet';
  /** Whether the log says that Redis is away. */
  #toldAway = false;
  #closing = false;

  private constructor(config: RedisConfig, logger: Logger, metrics: Metrics) {
    this.prefix = config.prefix;
    this.#commands = engineOperation(metrics, 'redis', 'command');
    this.#scripts = engineOperation(metrics, 'redis', 'script');
    this.#logger = logger;
    const connection = config.cluster ? clusterOf : redisOf;
    this.#client = connection(config);
    this.#channels = new RedisChannels(() => ({
      client: connection(config, { subscribes: true }),
      resumed: config.cluster ? 'subscribersReady' : 'ready',
    }));
    this.#listen(this.#client);
    this.#ping = setInterval(() => void this.#call(() => this.#client.ping()).catch(() => {}), PING_EVERY_MS).unref();
  }

  /**
   * Begins to connect. Resolves when Redis is there, or has not answered the first time: then it is tried again, which the
   * log says.
   *
   * @throws MeshError `failed_precondition` saying what to change when Redis refuses this client.
   */
  static async open(
    config: RedisConfig,
    { logger, metrics = new Metrics({ processMetrics: false }) }: { logger: Logger; metrics?: Metrics },
  ): Promise<RedisClient> {
    const client = new RedisClient(config, logger, metrics);
    const refused = (await client.#firstAttempt()) ?? (await client.#unexpectedCluster());
    if (!refused) return client;
    await client[Symbol.asyncDispose]();
    throw refused;
  }

  /** False while Redis does not answer. */
  get ready(): boolean {
    return this.#client.status === 'ready';
  }

  /**
   * Text that stays the same as long as what Redis has acknowledged for a key is still there unless Redis evicted or expired
   * the key as a whole: it changes when a connection is lost, and when another node takes over the key.
   */
  lineage(key: string): string {
    if (!(this.#client instanceof Cluster)) return String(this.#losses);
    const node = this.#client.slots[new Command('get', [key]).getSlot()]?.[0];
    return `${this.#losses}@${node}`;
  }

  /** All fields of a hash; none when there is no such key. */
  hash(key: string): Promise<Record<string, string>> {
    return this.#command('hgetall', [key], () => this.#client.hgetall(key));
  }

  /** Removes a key. */
  async remove(key: string): Promise<void> {
    await this.#command('unlink', [key], () => this.#client.unlink(key));
  }

  /** Runs a script on one key, or on keys of one slot. Text in its answer comes as strings. */
  run(script: RedisScript, keys: string | readonly string[], args: readonly Argument[]): Promise<unknown> {
    const all = typeof keys === 'string' ? [keys] : keys;
    const send = (sha: string, rest: Argument[]) => this.#client.evalsha(sha, all.length, ...rest);
    return this.#script(script, all.length, [...all, ...args], 'utf8', send);
  }

  /** As {@link run} with one key; text in its answer comes as bytes. */
  runBuffer(script: RedisScript, key: string, args: readonly Argument[]): Promise<unknown> {
    const client = this.#client as unknown as BufferScripts;
    const send = (sha: string, rest: Argument[]) => client.evalshaBuffer(sha, 1, ...rest);
    return this.#script(script, 1, [key, ...args], undefined, send);
  }

  /** As {@link RedisChannels.subscribe}; a script publishes, with SPUBLISH, on the channel that is named like its key. */
  subscribe(channel: string, listener: () => void): Promise<() => void> {
    return this.#channels.subscribe(channel, listener);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    this.#channels.close();
    clearInterval(this.#ping);
    this.#client.disconnect();
  }

  #script(
    script: RedisScript,
    keys: number,
    args: Argument[],
    replyEncoding: 'utf8' | undefined,
    send: (sha: string, args: Argument[]) => Promise<unknown>,
  ): Promise<unknown> {
    const run = async () => {
      try {
        return await send(script.sha, args);
      } catch (error) {
        // After SCRIPT FLUSH, a restart or a failover. EVAL loads the script, too.
        if (startsWith(error, 'NOSCRIPT')) return this.#alone('eval', [script.text, keys, ...args], replyEncoding);
        if (isRedirection(error)) return this.#alone('eval', [script.text, keys, ...args], replyEncoding);
        throw error;
      }
    };
    return this.#scripts.time(() => this.#call(run));
  }

  #command<T>(name: string, args: string[], send: () => Promise<T>): Promise<T> {
    const run = async () => {
      try {
        return await send();
      } catch (error) {
        if (isRedirection(error)) return (await this.#alone(name, args, 'utf8')) as T;
        throw error;
      }
    };
    return this.#commands.time(() => this.#call(run));
  }

  /** The driver follows redirections of a single command, and not those of a few among the many that travel together. */
  #alone(name: string, args: Argument[], replyEncoding: 'utf8' | undefined): Promise<unknown> {
    return this.#client.sendCommand(
      new Command(name, args, { replyEncoding: replyEncoding ?? null }),
    ) as Promise<unknown>;
  }

  async #call<T>(send: () => Promise<T>): Promise<T> {
    if (!this.ready) throw new MeshError('unavailable', `Redis does not answer: ${this.#reason}`);
    if (this.#inFlight >= MAX_IN_FLIGHT) throw new MeshError('unavailable', 'Redis answers too slowly');
    this.#inFlight++;
    // What is late still counts until the driver has let go of it.
    const answer = send().finally(() => this.#inFlight--);
    const late = () => new MeshError('unavailable', `Redis did not answer within ${REDIS_DEADLINE_MS} ms`);
    try {
      return await inTime(answer, REDIS_DEADLINE_MS, late);
    } catch (error) {
      throw redisError(error);
    }
  }

  #firstAttempt(): Promise<MeshError | undefined> {
    return new Promise((resolve) => {
      const judge = (error: unknown) => {
        const known = redisError(error);
        resolve(known.kind === 'failed_precondition' ? known : undefined);
      };
      this.#client.once('ready', () => resolve(undefined));
      // A node's error comes before the cluster's, which only says that all have failed.
      this.#client.once('node error', judge);
      this.#client.once('error', judge);
      setTimeout(() => resolve(undefined), CONNECT_TIMEOUT_MS + REDIS_DEADLINE_MS).unref();
      this.#client.connect().catch(() => {});
    });
  }

  /** A node of a cluster answers as long as it is not asked for the keys of others. */
  async #unexpectedCluster(): Promise<MeshError | undefined> {
    if (!this.ready || this.#client instanceof Cluster) return undefined;
    const info = await this.#call(() => this.#client.info('cluster')).catch(() => '');
    if (!info.includes('cluster_enabled:1')) return undefined;
    return new MeshError('failed_precondition', 'REDIS_URL leads to a node of a cluster: set REDIS_CLUSTER=true');
  }

  #listen(client: Redis | Cluster): void {
    client.on('error', (error: unknown) => this.#away(error));
    client.on('node error', (error: unknown) => this.#away(error));
    client.on('close', () => this.#lost());
    client.on('+node', (node: Redis) => node.on('close', () => this.#lost()));
    client.on('ready', () => {
      if (this.#toldAway) this.#logger.info('Redis answers');
      this.#toldAway = false;
      this.#reason = 'the connection was lost';
    });
  }

  #lost(): void {
    this.#losses++;
    if (!this.ready) this.#away(undefined);
  }

  /** Says once for each outage that Redis is away, and again when it turns out that Redis refuses this client. */
  #away(error: unknown): void {
    if (this.#closing) return;
    const { message, kind } = error === undefined ? { message: this.#reason, kind: undefined } : redisError(error);
    const level = kind === 'failed_precondition' ? 'error' : 'warn';
    const news = !this.#toldAway || (level === 'error' && message !== this.#reason);
    this.#reason = message;
    if (this.ready || !news) return;
    this.#toldAway = true;
    // The driver's errors are not logged: they carry what was sent, also passwords.
    this.#logger[level]({ reason: message }, `Redis does not answer, trying again: ${message}`);
  }
}

function redisOf(config: RedisConfig, { subscribes = false } = {}): Redis {
  const options = {
    ...commonOptions(config),
    db: config.database,
    retryStrategy: retryMs,
    // What is subscribed to while it connects waits for that.
    enableOfflineQueue: subscribes,
  };
  if (config.sentinels.length === 0) return new Redis({ ...options, ...hostAndPort(config.nodes[0] ?? '') });
  return new Redis({
    ...options,
    sentinels: config.sentinels.map(hostAndPort),
    name: config.sentinelMaster,
    ...(config.sentinelPassword !== undefined && { sentinelPassword: config.sentinelPassword }),
    sentinelRetryStrategy: retryMs,
    sentinelCommandTimeout: REDIS_DEADLINE_MS,
    ...(options.tls && { enableTLSForSentinelMode: true, sentinelTLS: options.tls }),
  });
}

function clusterOf(config: RedisConfig, { subscribes = false } = {}): Cluster {
  return new Cluster(config.nodes.map(hostAndPort), {
    redisOptions: commonOptions(config),
    lazyConnect: true,
    enableOfflineQueue: subscribes,
    shardedSubscribers: subscribes,
    // A node that gives a slot away ends its subscriptions, and the driver looks where the slot is only when it is refreshed.
    ...(subscribes && { slotsRefreshInterval: SUBSCRIBED_SLOTS_MS }),
    enableAutoPipelining: !subscribes,
    clusterRetryStrategy: retryMs,
    maxRedirections: MAX_REDIRECTIONS,
    slotsRefreshTimeout: REDIS_DEADLINE_MS,
    // Names are left to the connection, which needs them to check certificates.
    ...(config.tls && { dnsLookup: (address, callback) => callback(null, address) }),
  });
}

function commonOptions({ username, password, tls, caFile }: RedisConfig) {
  return {
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls && { tls: caFile === undefined ? {} : { ca: readCa(caFile, 'REDIS_CA_FILE') } }),
    connectionName: 'chatmesh',
    lazyConnect: true,
    enableAutoPipelining: true,
    connectTimeout: CONNECT_TIMEOUT_MS,
    // A server that stands still is left: what it has not answered fails, and nothing more queues up behind that.
    socketTimeout: REDIS_DEADLINE_MS,
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    disableClientInfo: true,
    // After a failover the connection may lead to what is a replica now.
    reconnectOnError: (error: Error) => startsWith(error, 'READONLY'),
  };
}

function hostAndPort(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(':');
  return { host: address.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(address.slice(at + 1)) };
}

/** Doubles from 50 ms to 2 s; half of it is chance, so that clients do not come back together. */
function retryMs(attempts: number): number {
  const ms = Math.min(MAX_RETRY_MS, MIN_RETRY_MS * 2 ** Math.min(attempts, 10));
  return Math.round(ms * (0.5 + Math.random() / 2));
}
