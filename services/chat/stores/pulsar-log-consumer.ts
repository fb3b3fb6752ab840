import { randomUUID } from 'node:crypto';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { type Logger, MeshError, sleep, toMeshError } from '@chatmesh/mesh';
import type { MessagePlace, PulsarSubscription, ReceivedMessage } from '@chatmesh/mesh/pulsar';
import type { LogConsumer, LogRecord, Position } from './message-log.js';

/** A claim is renewed this often: so long a partition that is to move may have to wait for its owner to notice. */
const CLAIM_MS = 500;
/** A claim that is durable and has not come back after so much time of receiving: the partition is being moved. */
const RELEASE_MS = 1_000;
/**
 * A process that stood still for longer may have lost its partitions: the broker takes a consumer for dead that does not
 * answer for its keepAliveIntervalSeconds, which this is the least that is good for.
 */
const LEASE_MS = 4_000;
/** The client waits up to a minute between its attempts to reconnect; so long it may try alone. */
const PATIENCE_MS = 2_000;
const RETRY_MS = 500;
/** The client gathers acknowledgements for 100 ms and does not tell when the broker has them. */
const ACKNOWLEDGED_MS = 500;
/** Tenures of one partition of which it is remembered what was received. */
const REMEMBERED_TENURES = 8;
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
  readonly open: Map<Position, Outstanding>;
}

/** A partition that this consumer owns: from its first message on until it is found to have moved. */
interface OwnedPartition {
  readonly tenure: number;
  readonly received: Received;
  /** Received and not acknowledged, so that whoever gets the partition next gets this before anything new. */
  held: ReceivedMessage | undefined;
  /** Claims of former owners, and of former tenures. */
  stale: ReceivedMessage[];
  /** An own claim has come back: what comes behind it was published when the partition was ours already. */
  established: boolean;
  /** The claim that has not come back. */
  pending: { readonly nonce: string; durable: boolean; waitedMs: number } | undefined;
  /** The partition is to move: no claim is held, and it goes when nothing is out any more. Undone by what still comes. */
  leaving: boolean;
}

let tenures = 0;

/**
 * A member of the routers' subscription.
 *
 * The client says neither when a partition is given to this consumer nor when it is taken away, for a lost connection is
 * mended silently. So the owner of a partition keeps one message of it unacknowledged, a *claim* that it has published
 * itself. Whoever gets the partition next is handed that claim first; so a message that comes a second time says that
 * the partition was lost in between, and what comes behind one's own claim is new. Claims are renewed all the time. One
 * that does not come back says that the broker wants to move the partition: then the claim that is held goes, and the
 * broker moves the partition when the rest is acknowledged, too.
 */
export class PulsarLogConsumer implements LogConsumer {
  readonly #deps: PulsarLogConsumerDeps;
  readonly #owned = new Map<number, OwnedPartition>();
  /** By partition, the latest last. */
  readonly #earlier = new Map<number, Received[]>();
  #subscription: PulsarSubscription;
  /** Grows with each subscription: what was received through an earlier one is worth nothing. */
  #generation = 0;
  #outstanding = 0;
  #room: (() => void) | undefined;
  /** There was no room for more in the present claim interval: a claim may lie behind what waits for it. */
  #throttled = false;
  #timer: NodeJS.Timeout | undefined;
  #lastTickMs = performance.now();
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
      if (owned.leaving && open.size === 0) this.#end(message.partition, owned);
    }
    if (this.#outstanding < this.#deps.maxUnacknowledged) this.#room?.();
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
    this.#endAll();
    await this.#subscription.close();
  }

  async #receive(subscription: PulsarSubscription, generation: number): Promise<void> {
    const current = () => !this.#closed && generation === this.#generation;
    while (current()) {
      let messages: ReceivedMessage[];
      try {
        messages = await subscription.receive();
      } catch (error) {
        if (!current()) return;
        this.#deps.logger.warn({ err: error }, 'nothing can be received from the message log; trying again');
        await sleep(RETRY_MS);
        continue;
      }
      if (performance.now() - this.#lastTickMs > LEASE_MS) this.#tick();
      for (let at = 0; at < messages.length && current(); ) {
        if (this.#outstanding >= this.#deps.maxUnacknowledged) await this.#untilRoom();
        else at = this.#take(messages, at);
      }
    }
  }

  async #untilRoom(): Promise<void> {
    this.#throttled = true;
    await new Promise<void>((resolve) => {
      this.#room = resolve;
      if (this.#closed || this.#outstanding < this.#deps.maxUnacknowledged) resolve();
    });
    this.#room = undefined;
  }

  /** Hands messages over from index `from` on until there is no room for more; returns where to go on. */
  #take(messages: readonly ReceivedMessage[], from: number): number {
    const records: LogRecord[] = [];
    let at = from;
    while (at < messages.length && this.#outstanding < this.#deps.maxUnacknowledged) {
      const record = this.#open(messages[at++] as ReceivedMessage);
      if (record) records.push(record);
    }
    if (records.length > 0) this.#deps.handle(records);
    return at;
  }

  /** The record of a message; undefined for what nobody has to handle. */
  #open(message: ReceivedMessage): LogRecord | undefined {
    const { partition, data } = message;
    const position = this.#deps.positionOf(message.place);
    let owned = this.#owned.get(partition);
    // What comes a second time may have been given to somebody else in between.
    if (owned && position <= owned.received.last) {
      this.#end(partition, owned);
      owned = undefined;
    }
    owned ??= this.#begin(partition, position);
    owned.received.last = position;
    this.#stay(owned);
    if (data[0] === NO_EVENT) {
      if (data[1] === CLAIM) this.#claimed(owned, message);
      else this.#subscription.acknowledge(message);
      return undefined;
    }
    if (this.#isDone(partition, position)) {
      this.#subscription.acknowledge(message);
      return undefined;
    }
    let event: LogEvent;
    try {
      event = LogEventWire.decode(data);
    } catch (error) {
      // Nobody can handle it, and it would come again for ever.
      this.#deps.logger.error({ err: error, position }, 'what lies on the message log is no event; it is passed over');
      this.#subscription.acknowledge(message);
      return undefined;
    }
    const mayRepeat = !owned.established;
    const record: Outstanding = { position, event, payload: data, mayRepeat, tenure: owned.tenure, message, owned };
    owned.received.open.set(position, record);
    this.#outstanding++;
    return record;
  }

  #begin(partition: number, position: Position): OwnedPartition {
    const owned: OwnedPartition = {
      tenure: ++tenures,
      received: { first: position, last: position, open: new Map() },
      held: undefined,
      stale: [],
      established: false,
      pending: undefined,
      leaving: false,
    };
    this.#owned.set(partition, owned);
    this.#claim(partition, owned);
    return owned;
  }

  /** The partition is still given to this consumer: its claim was slow. */
  #stay(owned: OwnedPartition): void {
    owned.leaving = false;
    if (owned.pending) owned.pending.waitedMs = 0;
  }

  /** A partition is not this consumer's any more, or begins anew. */
  #end(partition: number, owned: OwnedPartition): void {
    this.#owned.delete(partition);
    const earlier = this.#earlier.get(partition) ?? [];
    this.#earlier.set(partition, [...earlier, owned.received].slice(-REMEMBERED_TENURES));
    this.#outstanding -= owned.received.open.size;
    this.#deps.lost(owned.tenure);
  }

  #endAll(): void {
    for (const [partition, owned] of [...this.#owned]) this.#end(partition, owned);
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
    if (message.data.toString('latin1', 2) !== owned.pending?.nonce) {
      owned.stale.push(message);
      // Somebody has owned the partition since it was ours, and nothing has told of it.
      if (owned.established) void this.#renew('a partition has had another owner');
      return;
    }
    owned.pending = undefined;
    owned.established = true;
    for (const old of owned.stale) this.#subscription.acknowledge(old);
    owned.stale = [];
    if (owned.held) this.#subscription.acknowledge(owned.held);
    owned.held = message;
  }

  #tick(): void {
    const nowMs = performance.now();
    const stoodStill = nowMs - this.#lastTickMs > LEASE_MS;
    this.#lastTickMs = nowMs;
    if (this.#closed || this.#renewing) return;
    if (this.#subscription.connected) this.#downSinceMs = undefined;
    else this.#downSinceMs ??= nowMs;
    const cutOff = this.#downSinceMs !== undefined && nowMs - this.#downSinceMs > PATIENCE_MS;
    if (stoodStill || cutOff) {
      void this.#renew(stoodStill ? 'this process stood still' : 'the connection was lost');
      return;
    }
    for (const [partition, owned] of this.#owned) {
      if (owned.pending) this.#check(partition, owned, owned.pending);
      else this.#claim(partition, owned);
    }
    this.#throttled = this.#outstanding >= this.#deps.maxUnacknowledged;
  }

  #claim(partition: number, owned: OwnedPartition): void {
    const claim: NonNullable<OwnedPartition['pending']> = { nonce: randomUUID(), durable: false, waitedMs: 0 };
    owned.pending = claim;
    this.#deps.publish(partition, claimOf(claim.nonce)).then(
      () => {
        claim.durable = true;
      },
      () => {
        if (owned.pending === claim) owned.pending = undefined;
      },
    );
  }

  /** Whether a claim has been away for so long that the broker must want to move the partition. */
  #check(partition: number, owned: OwnedPartition, pending: NonNullable<OwnedPartition['pending']>): void {
    if (owned.leaving || !pending.durable || this.#throttled) return;
    pending.waitedMs += CLAIM_MS;
    if (pending.waitedMs <= RELEASE_MS) return;
    owned.leaving = true;
    for (const claim of owned.stale) this.#subscription.acknowledge(claim);
    if (owned.held) this.#subscription.acknowledge(owned.held);
    owned.stale = [];
    owned.held = undefined;
    if (owned.received.open.size === 0) this.#end(partition, owned);
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

function claimOf(nonce: string): Uint8Array {
  return Buffer.concat([Buffer.from([NO_EVENT, CLAIM]), Buffer.from(nonce, 'latin1')]);
}
