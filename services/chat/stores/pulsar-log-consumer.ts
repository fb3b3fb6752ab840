import { randomUUID } from 'node:crypto';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { type Logger, MeshError, sleep, toMeshError } from '@chatmesh/mesh';
import type { MessagePlace, PulsarSubscription, ReceivedMessage } from '@chatmesh/mesh/pulsar';
import type { LogConsumer, LogRecord, Position } from './message-log.js';

/** A claim is renewed this often. */
const CLAIM_MS = 400;
/** A partition is ours for this long from when a claim was published that has come back. */
const LEASE_MS = 2_000;
/** So long after its first claim an owner waits where there was another one, whose lease runs out meanwhile. */
const HOLD_MS = 2_500;
/** The client waits up to a minute between its attempts to reconnect; so long it may try alone. */
const PATIENCE_MS = 2_000;
const RETRY_MS = 500;
/** The client gathers acknowledgements for 100 ms and does not tell when the broker has them. */
const ACKNOWLEDGED_MS = 500;
/** Tenures of one partition of which it is remembered what was received. */
const REMEMBERED_TENURES = 8;
/** Received and not handed out, of all partitions: claims have to be reached behind what waits for room. */
const MAX_BUFFERED = 50_000;
/** What begins a message that is no event: 0 is no tag of a protobuf field. */
const NO_EVENT = 0;
const CLAIM = 'c'.charCodeAt(0);
/** A message that only shows that publishing works. */
export const PROBE: Uint8Array = Buffer.from([NO_EVENT, 'p'.charCodeAt(0)]);

export interface PulsarLogConsumerDeps {
  readonly subscribe: () => Promise<PulsarSubscription>;
  /** Publishes to a partition; resolves when it is durable. */
  readonly publish: (partition: number, data: Uint8Array) => Promise<unknown>;
  readonly positionOf: (place: MessagePlace) => Position;
  readonly logger: Logger;
  readonly handle: (records: LogRecord[]) => void;
  /** Told that the keys of a tenure are no longer this consumer's. */
  readonly lost: (tenure: number) => void;
  readonly maxUnacknowledged: number;
  readonly closed: () => void;
}

interface Outstanding extends LogRecord {
  readonly message: ReceivedMessage;
  readonly owned: OwnedPartition;
}

/** What was received of a partition within one tenure: everything from `first` to `last` that is not open is done with. */
interface Received {
  readonly first: Position;
  last: Position;
  /** Received and not acknowledged. */
  readonly open: Map<Position, Outstanding>;
}

/**
 * A partition that the broker gives to this consumer.
 *
 * `claiming` from its first message until the first own claim has come back; `waiting` until a former owner's lease must have
 * run out; then `owned`.
 */
interface OwnedPartition {
  readonly tenure: number;
  readonly received: Received;
  state: 'claiming' | 'waiting' | 'owned';
  /** Received and not acknowledged, so that whoever gets the partition next gets this before anything new. */
  held: ReceivedMessage | undefined;
  /** Claims that came before the own one. */
  stale: ReceivedMessage[];
  /** One of them is another consumer's. */
  hadOwner: boolean;
  /** The claim that has not come back, and when it was published. */
  pending: { readonly nonce: string; readonly atMs: number } | undefined;
  leaseEndsMs: number;
  /** Received and not handed out yet. */
  buffer: Outstanding[];
}

let tenures = 0;

/**
 * A member of the routers' subscription, a Failover one: the broker gives each partition to one consumer, and to another one
 * when consumers come and go, together with everything that is not acknowledged.
 *
 * The client says neither when a partition comes nor when it goes, for a lost connection is mended silently, and the broker
 * does not wait for the former owner. So ownership is a lease that is read from the partition itself: its owner publishes
 * *claims* and acts only as long as one that has come back is young enough; whoever gets the partition next waits until the
 * former lease must have run out. The last claim stays unacknowledged, so that it is the first that the next owner is
 * handed; and a message that comes a second time says that the partition may have been elsewhere in between.
 */
export class PulsarLogConsumer implements LogConsumer {
  readonly #deps: PulsarLogConsumerDeps;
  /** Begins the nonces of this consumer's claims. */
  readonly #id = randomUUID();
  #claims = 0;
  readonly #owned = new Map<number, OwnedPartition>();
  /** By partition, the latest last. */
  readonly #earlier = new Map<number, Received[]>();
  /** Partitions whose lease ran out while they were ours, with the last position received of them. */
  readonly #lapsed = new Map<number, Position>();
  #subscription: PulsarSubscription;
  /** Grows with each subscription: what was received through an earlier one is worth nothing. */
  #generation = 0;
  /** Handed out and not acknowledged. */
  #outstanding = 0;
  #buffered = 0;
  #room: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #downSinceMs: number | undefined;
  #renewing = false;
  #closed = false;

  private constructor(deps: PulsarLogConsumerDeps, subscription: PulsarSubscription) {
    this.#deps = deps;
    this.#subscription = subscription;
  }

  /** @throws MeshError */
  static async join(deps: PulsarLogConsumerDeps): Promise<PulsarLogConsumer> {
    const consumer = new PulsarLogConsumer(deps, await deps.subscribe());
    consumer.#timer = setInterval(() => consumer.#tick(), CLAIM_MS).unref();
    void consumer.#receive(consumer.#subscription, consumer.#generation);
    return consumer;
  }

  get unacknowledged(): number {
    return this.#outstanding;
  }

  acknowledge(records: readonly LogRecord[]): void {
    for (const record of records as readonly Outstanding[]) {
      const { owned, message, position } = record;
      const { open } = owned.received;
      // An owner that lost the key has no say in it any more.
      if (open.get(position) !== record || this.#owned.get(message.partition) !== owned) continue;
      open.delete(position);
      this.#outstanding--;
      this.#subscription.acknowledge(message);
    }
    this.#handOut();
  }

  async flushed(): Promise<void> {
    const subscription = this.#subscription;
    await sleep(ACKNOWLEDGED_MS);
    if (subscription !== this.#subscription || !subscription.connected)
      throw new MeshError('unavailable', 'the connection to the message log was lost');
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#deps.closed();
    clearInterval(this.#timer);
    this.#room?.();
    for (const { held, received } of this.#owned.values()) {
      // Nothing is left that the next owner would have to wait for.
      if (held && received.open.size === 0) this.#subscription.acknowledge(held);
    }
    this.#endAll();
    await this.#subscription.close();
  }

  async #receive(subscription: PulsarSubscription, generation: number): Promise<void> {
    const current = () => !this.#closed && generation === this.#generation;
    while (current()) {
      if (this.#buffered >= MAX_BUFFERED) await this.#untilRoom();
      if (!current()) return;
      try {
        const messages = await subscription.receive();
        for (const message of messages) if (current()) this.#take(message);
      } catch (error) {
        if (!current()) return;
        this.#deps.logger.warn({ err: error }, 'nothing can be received from the message log; trying again');
        await sleep(RETRY_MS);
      }
      this.#handOut();
    }
  }

  async #untilRoom(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#room = resolve;
    });
    this.#room = undefined;
  }

  #take(message: ReceivedMessage): void {
    const { partition, data } = message;
    const position = this.#deps.positionOf(message.place);
    const owned = this.#ownedAt(partition, position, isClaim(data) && !this.#isOwn(data));
    if (!owned) return;
    owned.received.last = position;
    if (data[0] === NO_EVENT) {
      if (data[1] === CLAIM) this.#claimed(owned, message);
      else this.#subscription.acknowledge(message);
      return;
    }
    if (this.#isDone(partition, position)) {
      this.#subscription.acknowledge(message);
      return;
    }
    let event: LogEvent;
    try {
      event = LogEventWire.decode(data);
    } catch (error) {
      // Nobody can handle it, and it would come again for ever.
      this.#deps.logger.error({ err: error, position }, 'what lies on the message log is no event; it is passed over');
      this.#subscription.acknowledge(message);
      return;
    }
    const mayRepeat = owned.state === 'claiming';
    const record: Outstanding = { position, event, payload: data, mayRepeat, tenure: owned.tenure, message, owned };
    owned.received.open.set(position, record);
    owned.buffer.push(record);
    this.#buffered++;
  }

  /** The partition as it is with a message that has come; undefined when everything has to begin anew. */
  #ownedAt(partition: number, position: Position, foreignClaim: boolean): OwnedPartition | undefined {
    const owned = this.#owned.get(partition);
    // What comes a second time may have been given to somebody else in between.
    if (owned && position <= owned.received.last) this.#end(partition, owned);
    else if (owned) return owned;
    const lapsed = this.#lapsed.get(partition);
    this.#lapsed.delete(partition);
    if (lapsed !== undefined && position > lapsed && !foreignClaim) {
      // It was ours all the time, and what was given up will not come again by itself.
      void this.#renew('a claim was slow to come back');
      return undefined;
    }
    return this.#begin(partition, position);
  }

  #begin(partition: number, position: Position): OwnedPartition {
    const owned: OwnedPartition = {
      tenure: ++tenures,
      received: { first: position, last: position, open: new Map() },
      state: 'claiming',
      held: undefined,
      stale: [],
      hadOwner: false,
      pending: undefined,
      leaseEndsMs: 0,
      buffer: [],
    };
    this.#owned.set(partition, owned);
    this.#claim(partition, owned);
    return owned;
  }

  /** A partition is not this consumer's any more, or begins anew. */
  #end(partition: number, owned: OwnedPartition): void {
    this.#owned.delete(partition);
    const earlier = this.#earlier.get(partition) ?? [];
    this.#earlier.set(partition, [...earlier, owned.received].slice(-REMEMBERED_TENURES));
    this.#buffered -= owned.buffer.length;
    this.#outstanding -= owned.received.open.size - owned.buffer.length;
    owned.buffer = [];
    this.#deps.lost(owned.tenure);
  }

  #endAll(): void {
    for (const [partition, owned] of [...this.#owned]) this.#end(partition, owned);
    this.#lapsed.clear();
  }

  /**
   * Whether an event was acknowledged in an earlier tenure: the broker has lost that, or did not hear of it. A tenure is
   * handed everything that nobody has acknowledged, in order, so what is not open of it was done with.
   */
  #isDone(partition: number, position: Position): boolean {
    return (this.#earlier.get(partition) ?? []).some(
      ({ first, last, open }) => first <= position && position <= last && !open.has(position),
    );
  }

  /** A claim has come, of whomever. */
  #claimed(owned: OwnedPartition, message: ReceivedMessage): void {
    const { pending } = owned;
    if (nonceOf(message.data) !== pending?.nonce) {
      owned.stale.push(message);
      if (this.#isOwn(message.data)) return;
      owned.hadOwner = true;
      // Somebody has owned the partition since it was ours, and nothing has told of it.
      if (owned.state !== 'claiming') void this.#renew('a partition has had another owner');
      return;
    }
    owned.pending = undefined;
    owned.leaseEndsMs = pending.atMs + LEASE_MS;
    if (owned.state === 'claiming') {
      owned.state = owned.hadOwner ? 'waiting' : 'owned';
      if (owned.hadOwner) setTimeout(() => this.#waited(owned), pending.atMs + HOLD_MS - performance.now()).unref();
    }
    for (const old of owned.stale) this.#subscription.acknowledge(old);
    owned.stale = [];
    if (owned.held) this.#subscription.acknowledge(owned.held);
    owned.held = message;
  }

  #waited(owned: OwnedPartition): void {
    owned.state = 'owned';
    this.#handOut();
  }

  /** Hands out what is buffered of partitions that are ours for certain, while there is room. */
  #handOut(): void {
    const room = this.#deps.maxUnacknowledged - this.#outstanding;
    if (this.#buffered === 0 || room <= 0 || this.#closed || this.#renewing) return;
    const nowMs = performance.now();
    const records: LogRecord[] = [];
    for (const owned of this.#owned.values()) {
      if (owned.buffer.length === 0 || owned.state !== 'owned' || nowMs > owned.leaseEndsMs) continue;
      const some =
        owned.buffer.length <= room - records.length ? owned.buffer : owned.buffer.slice(0, room - records.length);
      owned.buffer = some === owned.buffer ? [] : owned.buffer.slice(some.length);
      records.push(...some);
      if (records.length === room) break;
    }
    if (records.length === 0) return;
    this.#outstanding += records.length;
    this.#buffered -= records.length;
    if (this.#buffered < MAX_BUFFERED) this.#room?.();
    this.#deps.handle(records);
  }

  #tick(): void {
    if (this.#closed || this.#renewing) return;
    const nowMs = performance.now();
    if (this.#subscription.connected) this.#downSinceMs = undefined;
    else this.#downSinceMs ??= nowMs;
    for (const [partition, owned] of [...this.#owned]) {
      if (owned.state !== 'claiming' && nowMs > owned.leaseEndsMs) {
        this.#lapsed.set(partition, owned.received.last);
        this.#end(partition, owned);
      } else if (!owned.pending) this.#claim(partition, owned);
    }
    if (this.#downSinceMs !== undefined && nowMs - this.#downSinceMs > PATIENCE_MS)
      void this.#renew('the connection was lost');
    this.#handOut();
  }

  #claim(partition: number, owned: OwnedPartition): void {
    const claim = { nonce: `${this.#id}/${++this.#claims}`, atMs: performance.now() };
    owned.pending = claim;
    const data = Buffer.concat([Buffer.from([NO_EVENT, CLAIM]), Buffer.from(claim.nonce, 'latin1')]);
    this.#deps.publish(partition, data).catch(() => {
      if (owned.pending === claim) owned.pending = undefined;
    });
  }

  #isOwn(claim: Buffer): boolean {
    return nonceOf(claim).startsWith(this.#id);
  }

  /** Begins anew with another subscription: whatever was out belongs to whoever gets it next. */
  async #renew(why: string): Promise<void> {
    if (this.#renewing || this.#closed) return;
    this.#renewing = true;
    this.#generation++;
    this.#deps.logger.warn(`${why}: joining the message log's consumers again`);
    this.#endAll();
    this.#room?.();
    await this.#subscription.close();
    while (!this.#closed) {
      try {
        this.#subscription = await this.#deps.subscribe();
        break;
      } catch (error) {
        this.#deps.logger.warn({ err: toMeshError(error) }, 'the message log does not answer; trying again');
        await sleep(RETRY_MS * (1 + Math.random()));
      }
    }
    this.#renewing = false;
    this.#downSinceMs = undefined;
    if (this.#closed) await this.#subscription.close();
    else void this.#receive(this.#subscription, this.#generation);
  }
}

function isClaim(data: Buffer): boolean {
  return data[0] === NO_EVENT && data[1] === CLAIM;
}

function nonceOf(claim: Buffer): string {
  return claim.toString('latin1', 2);
}
