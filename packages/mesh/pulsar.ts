import { once } from 'node:events';
import { type IncomingMessage, request as requestPlain } from 'node:http';
import { request as requestEncrypted } from 'node:https';
import { text } from 'node:stream/consumers';
import { deadline } from './abort.js';
import { readCa } from './ca-file.js';
import { withDriver } from './drivers.js';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { type Logger, Metrics } from './observe.js';
import type * as Pulsar from './pulsar-api.js';
import { clientError, noAnswer, refusedBy } from './pulsar-errors.js';

export type { PulsarApi } from './pulsar-api.js';

export interface PulsarOptions {
  /** `pulsar://host:port` or `pulsar+ssl://host:port`. */
  readonly serviceUrl: string;
  /** A JSON web token that the broker accepts. Secret. */
  readonly token?: string | undefined;
  /** A PEM file with the authorities that sign the brokers' certificates. */
  readonly tlsCaFile?: string | undefined;
  readonly logger: Logger;
  readonly metrics?: Metrics;
}

/** Where a message is stored: unique within the cluster, and growing along a topic's partition. */
export interface MessagePlace {
  readonly ledger: number;
  readonly entry: number;
  /** Within a batch. */
  readonly index: number;
}

/** A message that was received and not acknowledged. */
export interface ReceivedMessage {
  readonly place: MessagePlace;
  /** Of its topic; 0 for a topic without partitions. */
  readonly partition: number;
  readonly data: Buffer;
  /** What {@link PulsarSubscription.acknowledge} takes. */
  readonly handle: unknown;
}

/** What a lookup, a subscription or the creation of a producer may take, as the client counts it. */
const OPERATION_TIMEOUT_S = 5;
const CONNECT_TIMEOUT_MS = 3_000;
const SEND_TIMEOUT_MS = 5_000;
const BATCHING_DELAY_MS = 1;
const BATCHING_MAX_MESSAGES = 1_000;
const MAX_PENDING = 20_000;
/** The client asks for a redelivery after so long, and not sooner than this. */
const REDELIVER_MS = 250;
const RECEIVER_QUEUE = 500;
const RECEIVER_QUEUE_ALL = 10_000;
const BATCH_RECEIVE = { maxNumMessages: 500, maxNumBytes: 1024 * 1024, timeoutMs: 1 };
const ADMIN_TIMEOUT_MS = 15_000;
const TEMPORARY_REDIRECT = 307;
const MAX_REDIRECTS = 5;
/** The client's numbers for its log levels. */
const WARN = 2;
const ERROR = 3;

/** Not written into the import itself, because a compiler would look for its types there. */
const PACKAGE: string = 'pulsar-client';

/**
 * The client's package.
 *
 * @throws MeshError `failed_precondition` where the optional package or its binary is not installed.
 */
export async function importPulsar(): Promise<Pulsar.PulsarApi> {
  return await withDriver('pulsar-client', async () => (await import(PACKAGE)).default as Pulsar.PulsarApi);
}

/** A connection to a Pulsar cluster: the only place that knows the client. */
export class PulsarClient {
  readonly #client: Pulsar.Client;
  readonly #publishing: EngineOperation;

  private constructor(client: Pulsar.Client, metrics: Metrics) {
    this.#client = client;
    this.#publishing = engineOperation(metrics, 'pulsar', 'publish');
  }

  /**
   * Makes a client; it connects with the first producer or subscription.
   *
   * @throws MeshError `failed_precondition` where the optional package or its binary is not installed.
   */
  static async create(options: PulsarOptions): Promise<PulsarClient> {
    const { serviceUrl, token, tlsCaFile, logger, metrics = new Metrics({ processMetrics: false }) } = options;
    const pulsar = await importPulsar();
    return new PulsarClient(
      new pulsar.Client({
        serviceUrl,
        operationTimeoutSeconds: OPERATION_TIMEOUT_S,
        connectionTimeoutMs: CONNECT_TIMEOUT_MS,
        ...(token && { authentication: new pulsar.AuthenticationToken({ token }) }),
        ...(tlsCaFile && { tlsTrustCertsFilePath: tlsCaFile, tlsValidateHostname: true }),
        log: (level, _file, _line, message) => {
          if (level >= ERROR) logger.warn({ engine: 'pulsar' }, message);
          else if (level >= WARN) logger.debug({ engine: 'pulsar' }, message);
        },
      }),
      metrics,
    );
  }

  /**
   * The partitions of a topic by name, in order; the topic itself where it has none, and nothing where its namespace is
   * missing.
   *
   * @throws MeshError
   */
  async partitionsOf(topic: string): Promise<string[]> {
    return await this.#client
      .getPartitionsForTopic(topic)
      .catch((error) => (/TopicNotFound/.test(String(error)) ? [] : raise(error)));
  }

  /** A producer for one topic without partitions, or one partition. @throws MeshError */
  async producer(topic: string): Promise<PulsarProducer> {
    const producer = await this.#client
      .createProducer({
        topic,
        sendTimeoutMs: SEND_TIMEOUT_MS,
        batchingEnabled: true,
        batchingMaxPublishDelayMs: BATCHING_DELAY_MS,
        batchingMaxMessages: BATCHING_MAX_MESSAGES,
        maxPendingMessages: MAX_PENDING,
        blockIfQueueFull: false,
      })
      .catch(raise);
    return new PulsarProducer(producer, this.#publishing);
  }

  /**
   * Joins a Failover subscription of a topic: each of its partitions is given to one consumer at a time.
   *
   * @param consumerName tells the consumer apart from all others; the broker spreads partitions in the order of names.
   * @throws MeshError
   */
  async subscribe(topic: string, subscription: string, consumerName: string): Promise<PulsarSubscription> {
    const consumer = await this.#client
      .subscribe({
        topic,
        subscription,
        subscriptionType: 'Failover',
        consumerName,
        subscriptionInitialPosition: 'Earliest',
        batchIndexAckEnabled: true,
        nAckRedeliverTimeoutMs: REDELIVER_MS,
        receiverQueueSize: RECEIVER_QUEUE,
        receiverQueueSizeAcrossPartitions: RECEIVER_QUEUE_ALL,
        batchReceivePolicy: BATCH_RECEIVE,
      })
      .catch(raise);
    return new PulsarSubscription(consumer);
  }

  async close(): Promise<void> {
    await this.#client.close().catch(() => {});
  }
}

/** Appends to one topic; what is sent together goes out in one batch. */
export class PulsarProducer {
  readonly #producer: Pulsar.Producer;
  readonly #publishing: EngineOperation;

  constructor(producer: Pulsar.Producer, publishing: EngineOperation) {
    this.#producer = producer;
    this.#publishing = publishing;
  }

  get connected(): boolean {
    return this.#producer.isConnected();
  }

  /**
   * Appends a message, with properties that others may read. Messages keep the order of the calls.
   *
   * @returns its place, when it is durable.
   * @throws MeshError `unavailable`: it may have become durable all the same.
   */
  async send(data: Uint8Array, properties?: Record<string, string>): Promise<MessagePlace> {
    const buffer = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    const message = properties ? { data: buffer, properties } : { data: buffer };
    return placeOf(await this.#publishing.time(() => this.#producer.send(message)).catch(raise));
  }

  async close(): Promise<void> {
    await this.#producer.close().catch(() => {});
  }
}

/** A member of a subscription. */
export class PulsarSubscription {
  readonly #consumer: Pulsar.Consumer;
  /** Whether many messages come: then they are received in batches, which cost half as much but wait for more. */
  #many = false;
  #lastSingleMs = 0;

  constructor(consumer: Pulsar.Consumer) {
    this.#consumer = consumer;
  }

  get connected(): boolean {
    return this.#consumer.isConnected();
  }

  /**
   * Waits for messages, in the order of their partitions; may return none. One call at a time.
   *
   * @throws MeshError `cancelled` once it is closed, `unavailable` otherwise.
   */
  async receive(): Promise<ReceivedMessage[]> {
    const messages = this.#many
      ? await this.#consumer.batchReceive().catch(raise)
      : [await this.#consumer.receive().catch(raise)];
    this.#many = this.#many ? messages.length > 0 : this.#soonAgain();
    return messages.map(received);
  }

  /** Two single messages within a millisecond are the beginning of many. */
  #soonAgain(): boolean {
    const nowMs = performance.now();
    const soon = nowMs - this.#lastSingleMs < 1;
    this.#lastSingleMs = nowMs;
    return soon;
  }

  /** Lets the broker forget a message. It has it a tenth of a second later, unless the connection is lost. */
  acknowledge(message: ReceivedMessage): void {
    // What is not taken comes again.
    this.#consumer.acknowledgeId(message.handle as Pulsar.MessageId).catch(() => {});
  }

  /**
   * Asks for everything of a message's partition that is not acknowledged once more, in order; the broker does nothing when
   * the partition is somebody else's. On a Failover subscription a negative acknowledgement means just that.
   */
  redeliver(message: ReceivedMessage): void {
    this.#consumer.negativeAcknowledgeId(message.handle as Pulsar.MessageId);
  }

  /** Leaves; what is not acknowledged goes to others. */
  async close(): Promise<void> {
    await this.#consumer.close().catch(() => {});
  }
}

function received(message: Pulsar.Message): ReceivedMessage {
  const id = message.getMessageId();
  const [ledger, entry, partition, index] = numbersOf(id);
  return { place: { ledger, entry, index }, partition, data: message.getData(), handle: id };
}

function placeOf(id: Pulsar.MessageId): MessagePlace {
  const [ledger, entry, , index] = numbersOf(id);
  return { ledger, entry, index };
}

/** `(ledger,entry,partition,index)` is the only form in which the client tells them; -1 stands for "none". */
function numbersOf(id: Pulsar.MessageId): [number, number, number, number] {
  const [ledger, entry, partition, index] = id.toString().slice(1, -1).split(',');
  return [Number(ledger), Number(entry), Math.max(0, Number(partition)), Math.max(0, Number(index))];
}

function raise(error: unknown): never {
  throw clientError(error);
}

interface Reply {
  readonly status: number;
  readonly text: string;
}

/** Prepares a cluster through its HTTP interface; everything may be done again. */
export class PulsarAdmin {
  readonly #url: string;
  readonly #token: string | undefined;
  readonly #ca: Buffer | undefined;

  /** @throws MeshError `failed_precondition` when the file with the authorities cannot be read. */
  constructor({ url, token, tlsCaFile }: Pick<PulsarOptions, 'token' | 'tlsCaFile'> & { readonly url: string }) {
    this.#url = url.replace(/\/$/, '');
    this.#token = token;
    this.#ca = readCa(tlsCaFile, 'PULSAR_TLS_CA');
  }

  /**
   * Makes a namespace, and sets what the log relies on: a producer that sends again after a lost connection is not stored
   * twice, a full backlog refuses messages instead of holding up whoever sends, and what was acknowledged stays for so
   * many hours.
   *
   * @param namespace `tenant/name`.
   * @throws MeshError `unavailable` or `failed_precondition`
   */
  async prepareNamespace(
    namespace: string,
    { backlogBytes, retentionHours }: { backlogBytes: number; retentionHours: number },
  ): Promise<void> {
    const [tenant = ''] = namespace.split('/');
    const clusters = (await this.#call('GET', '/clusters')) as string[];
    await this.#create(`/tenants/${tenant}`, { allowedClusters: clusters, adminRoles: [] });
    await this.#create(`/namespaces/${namespace}`, {});
    await this.#call('POST', `/namespaces/${namespace}/deduplication`, true);
    await this.#call('POST', `/namespaces/${namespace}/backlogQuota?backlogQuotaType=destination_storage`, {
      limitSize: backlogBytes,
      policy: 'producer_exception',
    });
    await this.#call('POST', `/namespaces/${namespace}/retention`, {
      retentionTimeInMinutes: retentionHours * 60,
      // Without a limit; both 0 is nothing.
      retentionSizeInMB: retentionHours === 0 ? 0 : -1,
    });
  }

  /** Makes a partitioned topic with a subscription, from its beginning. @returns how many partitions it has. */
  async prepareTopic(topic: string, options: { partitions: number; subscription: string }): Promise<number> {
    const path = pathOf(topic);
    await this.#create(`${path}/partitions`, options.partitions);
    await this.#create(`${path}/subscription/${options.subscription}`, {
      ledgerId: -1,
      entryId: -1,
      partitionIndex: -1,
    });
    const { partitions } = (await this.#call('GET', `${path}/partitions`)) as { partitions: number };
    return partitions;
  }

  async deleteTopic(topic: string): Promise<void> {
    await this.#call('DELETE', `${pathOf(topic)}/partitions?force=true`);
  }

  /** How many bytes a subscription has not acknowledged in each partition of a topic, by the partition's full name. */
  async backlogBytes(topic: string, subscription: string): Promise<Map<string, number>> {
    const path = `${pathOf(topic)}/partitioned-stats?perPartition=true&subscriptionBacklogSize=true`;
    const { partitions } = (await this.#call('GET', path)) as {
      partitions: Record<string, { subscriptions: Record<string, { backlogSize: number }> }>;
    };
    return new Map(
      Object.entries(partitions).map(([name, { subscriptions }]) => [
        name,
        subscriptions[subscription]?.backlogSize ?? 0,
      ]),
    );
  }

  /** Entries that a subscription has not been acknowledged, over all partitions. */
  async backlog(topic: string, subscription: string): Promise<number> {
    const stats = (await this.#call('GET', `${pathOf(topic)}/partitioned-stats?perPartition=false`)) as {
      subscriptions: Record<string, { msgBacklog: number }>;
    };
    return stats.subscriptions[subscription]?.msgBacklog ?? 0;
  }

  /**
   * Why the client has failed, where this interface can tell: the client has no other word for a refused token, or for a
   * certificate that it does not trust, than for a broker that is away.
   *
   * @param error of the client.
   * @returns what the operator has to mend, or the error itself.
   */
  async explain(error: unknown, options: { signal?: AbortSignal } = {}): Promise<unknown> {
    if (!(error instanceof MeshError) || error.kind !== 'unavailable') return error;
    // Every role may ask for this.
    const answer = await this.#call('GET', '/clusters', undefined, options).catch((refusal: unknown) => refusal);
    return answer instanceof MeshError && answer.kind === 'failed_precondition' ? answer : error;
  }

  /** Like {@link #call}, where what is there already is no error. */
  async #create(path: string, body: unknown): Promise<void> {
    await this.#call('PUT', path, body, { accepted: [409] });
  }

  async #call(
    method: string,
    path: string,
    body?: unknown,
    { accepted = [], signal }: { accepted?: readonly number[]; signal?: AbortSignal } = {},
  ): Promise<unknown> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const asked = this.#ask(method, `${this.#url}/admin/v2${path}`, payload, deadline(ADMIN_TIMEOUT_MS, signal));
    const { status, text } = await asked.catch((cause) => {
      throw noAnswer(cause);
    });
    if (status >= 200 && status < 300) return text === '' ? undefined : JSON.parse(text);
    if (accepted.includes(status)) return undefined;
    throw refusedBy({ status, text }, `${method} ${path}`, this.#token !== undefined);
  }

  /** Not by fetch: it takes no authority of one's own, and brings no token to the broker that another one names. */
  async #ask(
    method: string,
    url: string,
    body: string | undefined,
    signal: AbortSignal,
    redirects = 0,
  ): Promise<Reply> {
    const request = url.startsWith('https:') ? requestEncrypted : requestPlain;
    const asking = request(url, {
      method,
      signal,
      headers: { 'content-type': 'application/json', ...(this.#token && { authorization: `Bearer ${this.#token}` }) },
      ...(this.#ca && { ca: this.#ca }),
    });
    asking.end(body);
    const [response] = (await once(asking, 'response')) as [IncomingMessage];
    const reply = { status: response.statusCode ?? 0, text: await text(response) };
    const { location } = response.headers;
    // A topic is the affair of one broker, and the others say which.
    if (reply.status !== TEMPORARY_REDIRECT || !location || redirects === MAX_REDIRECTS) return reply;
    return this.#ask(method, new URL(location, url).href, body, signal, redirects + 1);
  }
}

function pathOf(topic: string): string {
  return `/${topic.replace('://', '/')}`;
}
