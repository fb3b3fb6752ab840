import { randomUUID } from 'node:crypto';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { type Logger, MeshError, sleep, toMeshError, type WallClock } from '@chatmesh/mesh';
import type { MessagePlace, PulsarAdmin, PulsarClient, PulsarProducer } from '@chatmesh/mesh/pulsar';
import { traceparentOf } from '../domain/events.js';
import type { ConsumeOptions, LogConsumer, LogRecord, MessageLog, Position } from './message-log.js';
import { PROBE, PulsarLogConsumer } from './pulsar-log-consumer.js';

export interface PulsarLogOptions {
  /** A partitioned topic by its full name. */
  readonly topic: string;
  /** 0 to 255: grows when the cluster is replaced by another one, whose places begin anew. */
  readonly epoch: number;
  /** Knows where the last messages are, and how much waits. */
  readonly admin: PulsarAdmin;
  /** How much may wait in a partition, bytes; without it the broker's own limit is the only one. */
  readonly backlog?: { readonly maxBytes: number; readonly pollMs?: number } | undefined;
  /** No earlier than any event that is being published was accepted. */
  readonly now: WallClock;
  readonly logger: Logger;
}

/** All routers are one subscription. */
export const SUBSCRIPTION = 'routers';
const REVIVE_MS = 500;
const BACKLOG_POLL_MS = 5_000;
/** The client waits up to a minute between its attempts to reconnect; so long it may try alone. */
const PATIENCE_MS = 2_000;
/** Routers hear of each other's clocks within a second or so: by so much, at most, another message is later than a partition's last. */
const CLOCKS_DIFFER_MS = 2_000;

/**
 * The message log on a partitioned topic of Pulsar. A user's events go to one partition, so a batch may hold those of many
 * users, and a partition moves as a whole: {@link PulsarLogConsumer} says how.
 */
export class PulsarMessageLog implements MessageLog {
  readonly #client: PulsarClient;
  readonly #options: PulsarLogOptions;
  readonly #partitions: readonly Partition[];
  readonly publishedUntilMs: number;
  readonly #consumers = new Set<PulsarLogConsumer>();
  /** The partition that the last publishing failed on. */
  #refusing: number | undefined;
  #reviving: NodeJS.Timeout | undefined;
  /** Partitions in which too much waits. */
  #full: ReadonlySet<number> = new Set();
  #polling: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(
    client: PulsarClient,
    options: PulsarLogOptions,
    partitions: readonly Partition[],
    publishedUntilMs: number,
  ) {
    this.#client = client;
    this.#options = options;
    this.#partitions = partitions;
    this.publishedUntilMs = publishedUntilMs;
    this.#reviving = setInterval(() => this.#revive(), REVIVE_MS).unref();
    const { backlog } = options;
    if (backlog) {
      let asking = false;
      const poll = async () => {
        if (asking) return;
        asking = true;
        await this.#poll(backlog);
        asking = false;
      };
      void poll();
      this.#polling = setInterval(poll, backlog.pollMs ?? BACKLOG_POLL_MS).unref();
    }
  }

  /**
   * Opens the log. The topic and its subscription must be there.
   *
   * @throws MeshError `failed_precondition` when the topic is missing, `unavailable` when Pulsar does not answer.
   */
  static async open(client: PulsarClient, options: PulsarLogOptions): Promise<PulsarMessageLog> {
    const topics = await client.partitionsOf(options.topic);
    if (topics.length === 0 || !topics.every((topic) => /-partition-\d+$/.test(topic))) {
      throw new MeshError(
        'failed_precondition',
        `the Pulsar topic ${options.topic} is not prepared: run npx chatmesh migrate`,
      );
    }
    const lastMs = Math.max(...(await Promise.all(topics.map((topic) => lastTimeOf(topic, client, options.admin)))));
    const made = await Promise.allSettled(topics.map((topic) => client.producer(topic)));
    const partitions: Partition[] = [];
    for (const [i, result] of made.entries()) {
      if (result.status === 'fulfilled')
        partitions.push({
          topic: topics[i] as string,
          producer: result.value,
          downSinceMs: undefined,
          reviving: false,
        });
    }
    const failed = made.find((result) => result.status === 'rejected');
    if (failed) {
      await Promise.all(partitions.map(({ producer }) => producer.close()));
      throw failed.reason;
    }
    return new PulsarMessageLog(client, options, partitions, lastMs === 0 ? 0 : lastMs + CLOCKS_DIFFER_MS);
  }

  get writable(): boolean {
    return this.#refusing === undefined && this.#partitions.every(({ producer }) => producer.connected);
  }

  /** Never certain: what this consumer has is with it, and the rest with the broker. */
  holds(): boolean {
    return false;
  }

  takesMessages(userId: string): boolean {
    return this.#full.size === 0 || !this.#full.has(this.#partitionOf(userId));
  }

  async publish(events: readonly LogEvent[], record?: (positions: readonly Position[]) => void): Promise<Position[]> {
    if (events.length === 0) return [];
    // Encoded before anything is sent: an event that cannot be must not leave half of the others on the log.
    const payloads = events.map((event) => LogEventWire.encode(event));
    const partitions = events.map((event) => this.#partitionOf(event.userId));
    const places = await Promise.allSettled(
      partitions.map((p, i) => this.#send(p, payloads[i] as Uint8Array, traceparentOf(events[i] as LogEvent))),
    );
    const positions: Position[] = [];
    for (const [i, result] of places.entries()) {
      if (result.status === 'rejected') {
        this.#refusing = partitions[i];
        const { message } = toMeshError(result.reason);
        throw new MeshError('unavailable', message, { cause: result.reason });
      }
      positions.push(this.#positionOf(result.value));
    }
    record?.(positions);
    return positions;
  }

  async consume(handle: (records: LogRecord[]) => void, options: ConsumeOptions): Promise<LogConsumer> {
    const id = randomUUID();
    const consumer = await PulsarLogConsumer.join({
      id,
      subscribe: () => this.#client.subscribe(this.#options.topic, SUBSCRIPTION, id),
      publish: (partition, data) => this.#send(partition, data),
      positionOf: (place) => this.#positionOf(place),
      partitionOf: (userId) => this.#partitionOf(userId),
      logger: this.#options.logger,
      handle,
      lost: options.lost ?? (() => {}),
      maxUnacknowledged: options.maxUnacknowledged,
      closed: () => void this.#consumers.delete(consumer),
    });
    this.#consumers.add(consumer);
    return consumer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearInterval(this.#reviving);
    clearInterval(this.#polling);
    await Promise.all([...this.#consumers].map((consumer) => consumer.close()));
    await Promise.all(this.#partitions.map(({ producer }) => producer.close()));
  }

  #send(partition: number, data: Uint8Array, traceparent = ''): Promise<MessagePlace> {
    const { producer } = this.#partitions[partition] as Partition;
    // The client would keep it until its time is over: whoever sends can decide for himself.
    if (!producer.connected) return Promise.reject(new MeshError('unavailable', 'the message log does not answer'));
    return producer.send(data, this.#options.now(), traceparent === '' ? undefined : { traceparent });
  }

  #partitionOf(userId: string): number {
    return hashOf(userId) % this.#partitions.length;
  }

  /** Epoch, ledger, entry and index as fixed-width hexadecimal text. */
  #positionOf({ ledger, entry, index }: MessagePlace): Position {
    return hex(this.#options.epoch, 2) + hex(ledger, 12) + hex(entry, 8) + hex(index, 4);
  }

  async #poll({ maxBytes }: NonNullable<PulsarLogOptions['backlog']>): Promise<void> {
    const { admin, logger, topic } = this.#options;
    try {
      const sizes = await admin.backlogBytes(topic, SUBSCRIPTION);
      const full = new Set(
        this.#partitions.flatMap((partition, i) => ((sizes.get(partition.topic) ?? 0) > maxBytes ? [i] : [])),
      );
      if (full.size > this.#full.size)
        logger.error({ partitions: [...full], maxBytes }, 'too much waits in the message log: senders are refused');
      this.#full = full;
    } catch (error) {
      logger.debug({ err: error }, 'how much waits in the message log is not known');
    }
  }

  /** Replaces producers that have been without a connection for longer than the client should take. */
  #revive(): void {
    const nowMs = performance.now();
    const refusing = this.#refusing;
    if (refusing !== undefined) {
      this.#send(refusing, PROBE).then(
        () => {
          if (this.#refusing === refusing) this.#refusing = undefined;
        },
        () => {},
      );
    }
    for (const partition of this.#partitions) {
      if (partition.producer.connected) {
        partition.downSinceMs = undefined;
        continue;
      }
      partition.downSinceMs ??= nowMs;
      if (partition.reviving || nowMs - partition.downSinceMs < PATIENCE_MS) continue;
      partition.reviving = true;
      void this.#replace(partition);
    }
  }

  async #replace(partition: Partition): Promise<void> {
    try {
      const producer = await this.#client.producer(partition.topic);
      const before = partition.producer;
      if (this.#closed) await producer.close();
      else partition.producer = producer;
      await before.close();
    } catch (error) {
      this.#options.logger.warn(
        { err: error, topic: partition.topic },
        'Pulsar does not take a producer; trying again',
      );
      await sleep(REVIVE_MS * Math.random());
    } finally {
      partition.reviving = false;
    }
  }
}

interface Partition {
  readonly topic: string;
  producer: PulsarProducer;
  downSinceMs: number | undefined;
  reviving: boolean;
}

/** When the last message of a partition was published; 0 where there is none. */
async function lastTimeOf(topic: string, client: PulsarClient, admin: PulsarAdmin): Promise<number> {
  const place = await admin.lastPlace(topic);
  return place ? client.timeAt(topic, place) : 0;
}

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}

/** FNV-1a over the key's characters: spreads UUIDs and needs no more. */
function hashOf(key: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193);
  return h >>> 0;
}
