import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { ChurnMap, type Logger, MeshError, sleep, toMeshError } from '@chatmesh/mesh';
import type { MessagePlace, PulsarSubscription, ReceivedMessage } from '@chatmesh/mesh/pulsar';
import { acceptedAtMs } from '../domain/events.js';
import type { LogConsumer, LogRecord, Position } from './message-log.js';

/** A claim is renewed this often, and leases are looked at this often. */
const CLAIM_MS = 400;
const TICK_MS = 100;
/** A partition is ours for so long from when a claim was published that has come back: the shortest and the longest lease. */
const LEASE_MS = 2_000;
const LONGEST_LEASE_MS = 6_000;
/** A lease is at least so many times as long as claims take to come back. */
const PATIENCE = 3;
/** By how much a lease comes nearer to what would do, with each claim that comes back. */
const SHORTEN = 0.03;
/** So much longer than the former owner's lease a new owner waits from its first claim. */
const MARGIN_MS = 250;
/** The client waits up to a minute between its attempts to reconnect; so long it may try alone. */
const RECONNECT_MS = 2_000;
const RETRY_MS = 500;
/** A partition whose first claim has not come back by then may not be ours. */
const FIRST_CLAIM_MS = 5_000;
/** A redelivery takes some tenths of a second; a broker that had the partition elsewhere has to be asked again. */
const ASK_AGAIN_MS = 1_000;
/** The client gathers acknowledgements for 100 ms and does not tell when the broker has them. */
const ACKNOWLEDGED_MS = 500;
const PROOF_MS = 50;
/** Tenures of one partition of which it is remembered what was received. */
const REMEMBERED_TENURES = 8;
/** Received and not handed out, of all partitions: claims have to be reached behind what waits for room. */
const MAX_BUFFERED = 50_000;
/** What begins a message that is no event: 0 is no tag of a protobuf field. */
const NO_EVENT = 0;
const CLAIM = 'c'.charCodeAt(0);
/** Takes back all claims that a consumer has published before. */
const RELEASE = 'r'.charCodeAt(0);
/** A message that only shows that publishing works. */
export const PROBE: Uint8Array = Buffer.from([NO_EVENT, 'p'.charCodeAt(0)]);

export interface PulsarLogConsumerDeps {
  /** Tells the consumer apart from all others, and has no slash. */
  readonly id: string;
  readonly subscribe: () => Promise<PulsarSubscription>;
  /** Publishes to a partition; resolves when it is durable. */
  readonly publish: (partition: number, data: Uint8Array) => Promise<unknown>;
  readonly positionOf: (place: MessagePlace) => Position;
  readonly partitionOf: (userId: string) => number;
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
  readonly open: ChurnMap<Position, Outstanding>;
}

/**
 * A partition that the broker gives to this consumer.
 *
 * `claiming` from its first message until the first own claim has come back. Where nobody else has claimed it, `owned` from then
 * on. Otherwise `waiting` until the former owner's lease must have run out or was released; then it begins anew, with what is
 * still unacknowledged and without the former owner's claims.
 */
interface OwnedPartition {
  readonly tenure: number;
  readonly received: Received;
  state: 'claiming' | 'waiting' | 'owned';
  /** Received and not acknowledged, so that whoever gets the partition next gets this before anything new. */
  held: ReceivedMessage | undefined;
  /** Claims and releases that came before the own claim. They stay unacknowledged until the partition is owned. */
  stale: ReceivedMessage[];
  /** Who has claimed the partition before, and has not released it, with the longest lease that was claimed. */
  readonly formerOwners: Map<string, number>;
  /** In which tenures that was. */
  readonly formerTenures: Set<string>;
  /** As of {@link LapsedPartition}. */
  readonly over: ReadonlySet<string>;
  /** Whether it was given up, and comes back without former owners whose leases were waited for. */
  readonly again: boolean;
  /** The claim that has not come back, and when it was published. */
  pending: { readonly text: string; readonly atMs: number; readonly leaseMs: number } | undefined;
  /** How long the last claim took to come back. */
  tookMs: number;
  leaseEndsMs: number;
  /** When the last claim was published that has come back. */
  provenAtMs: number;
  latest: ReceivedMessage;
  /** Received and not handed out yet. */
  buffer: Outstanding[];
}

/** A partition that cannot be vouched for any more: nothing of it counts until something comes a second time. */
interface LapsedPartition {
  last: Position;
  readonly askedAtMs: number;
  /** What has come since, and shows that the broker holds the partition for ours. */
  passedOver: ReceivedMessage | undefined;
  /** Tenures that are over: their leases were waited for, or taken back. None when our own lease just ended: see {@link OwnedPartition.again}. */
  readonly over: ReadonlySet<string>;
}

const NONE: ReadonlySet<string> = new Set();
let tenures = 0;

/**
 * A member of the routers' subscription, a Failover one: the broker gives each partition to one consumer, and to another one
 * when consumers come and go, together with everything that is not acknowledged.
 *
 * The client says neither when a partition comes nor when it goes, for a lost connection is mended silently, and the broker
 * does not wait for the former owner. So ownership is a lease that is read from the partition itself: its owner publishes
 * *claims* and acts only as long as one that has come back is young enough; whoever gets the partition next waits until the
 * former lease must have run out, which the claim tells, unless a *release* tells that it was given back. The last claim stays unacknowledged, so that it is the first that the next owner is
 * handed; and a message that comes a second time says that the partition may have been elsewhere in between.
 */
export class PulsarLogConsumer implements LogConsumer {
  readonly #deps: PulsarLogConsumerDeps;
  readonly #id: string;
  #ticks = 0;
  #claims = 0;
  /** What is claimed next. */
  #leaseMs = LEASE_MS;
  readonly #owned = new Map<number, OwnedPartition>();
  /** By partition, the latest last. */
  readonly #earlier = new Map<number, Received[]>();
  readonly #lapsed = new Map<number, LapsedPartition>();
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
    this.#id = deps.id;
    this.#subscription = subscription;
  }

  /** @throws MeshError */
  static async join(deps: PulsarLogConsumerDeps): Promise<PulsarLogConsumer> {
    const consumer = new PulsarLogConsumer(deps, await deps.subscribe());
    consumer.#timer = setInterval(() => consumer.#tick(), TICK_MS).unref();
    void consumer.#receive(consumer.#subscription, consumer.#generation);
    return consumer;
  }

  get unacknowledged(): number {
    return this.#outstanding;
  }

  owns(userId: string): boolean {
    const owned = this.#owned.get(this.#deps.partitionOf(userId));
    return owned?.state === 'owned' && performance.now() <= owned.leaseEndsMs;
  }

  oldestAtMs(): number | undefined {
    let oldest: number | undefined;
    for (const { received } of this.#owned.values()) {
      // Messages of a partition are in the order of their acceptance, nearly: routers' clocks differ.
      for (const { event } of received.open.values()) {
        const atMs = acceptedAtMs(event);
        if (atMs === undefined) continue;
        if (oldest === undefined || atMs < oldest) oldest = atMs;
        break;
      }
    }
    return oldest;
  }

  lagMs(): number {
    const nowMs = performance.now();
    let lagMs = 0;
    for (const { pending, tookMs } of this.#owned.values())
      lagMs = Math.max(lagMs, tookMs, pending ? nowMs - pending.atMs : 0);
    return lagMs;
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
    const sinceMs = performance.now() + ACKNOWLEDGED_MS;
    await sleep(ACKNOWLEDGED_MS);
    // An owner that has a partition no more acknowledges in vain, and with a long lease it knows late.
    while (!this.#closed && subscription === this.#subscription && !this.#ownsAllSince(sinceMs)) await sleep(PROOF_MS);
    if (subscription !== this.#subscription || !subscription.connected)
      throw new MeshError('unavailable', 'the connection to the message log was lost');
  }

  /** Whether everything that is still owned was still owned at this time: a claim that was published later has come back. */
  #ownsAllSince(sinceMs: number): boolean {
    for (const { state, provenAtMs } of this.#owned.values())
      if (state === 'owned' && provenAtMs < sinceMs) return false;
    return true;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#deps.closed();
    clearInterval(this.#timer);
    this.#room?.();
    const owned = [...this.#owned].filter(([, { state }]) => state === 'owned');
    this.#endAll();
    // The broker has all acknowledgements when this is done.
    await this.#subscription.close();
    // The next owner need not wait for the lease to end.
    await Promise.all(owned.map(([partition]) => this.#publish(partition, RELEASE, this.#id).catch(() => {})));
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
    const owned = this.#ownedAt(message, position);
    if (!owned) return;
    owned.received.last = position;
    owned.latest = message;
    if (data[0] === NO_EVENT) {
      if (data[1] === CLAIM) this.#claimed(owned, message);
      else {
        owned.formerOwners.delete(consumerOf(data));
        owned.stale.push(message);
        if (owned.state === 'waiting' && owned.formerOwners.size === 0) this.#beginAnew(owned);
      }
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

  /** The partition as it is with a message that has come; undefined when the message does not count. */
  #ownedAt(message: ReceivedMessage, position: Position): OwnedPartition | undefined {
    const { partition } = message;
    const owned = this.#owned.get(partition);
    if (owned && position > owned.received.last) return owned;
    // What comes a second time may have been given to somebody else in between.
    if (owned) this.#end(partition, owned);
    const lapsed = this.#lapsed.get(partition);
    if (lapsed && position > lapsed.last) {
      lapsed.last = position;
      lapsed.passedOver = message;
      return undefined;
    }
    this.#lapsed.delete(partition);
    return this.#begin(message, position, lapsed);
  }

  /** Begins anew with a partition, if it is still ours. */
  #giveUp(owned: OwnedPartition, over: ReadonlySet<string> = NONE): void {
    if (this.#owned.get(owned.latest.partition) !== owned) return;
    this.#end(owned.latest.partition, owned);
    this.#lapse(owned.latest, owned.received.last, over);
  }

  /** Asks for everything of a partition that is not acknowledged once more, if the partition is still ours. */
  #lapse(message: ReceivedMessage, last: Position, over: ReadonlySet<string>): void {
    this.#lapsed.set(message.partition, { last, askedAtMs: performance.now(), passedOver: undefined, over });
    this.#subscription.redeliver(message);
  }

  #begin(message: ReceivedMessage, position: Position, lapsed: LapsedPartition | undefined): OwnedPartition {
    const owned: OwnedPartition = {
      tenure: ++tenures,
      received: { first: position, last: position, open: new ChurnMap() },
      state: 'claiming',
      held: undefined,
      stale: [],
      formerOwners: new Map(),
      formerTenures: new Set(),
      over: lapsed?.over ?? NONE,
      again: lapsed?.over.size === 0,
      pending: undefined,
      tookMs: 0,
      leaseEndsMs: performance.now() + Math.max(FIRST_CLAIM_MS, 2 * this.#leaseMs),
      provenAtMs: 0,
      latest: message,
      buffer: [],
    };
    this.#owned.set(message.partition, owned);
    this.#claim(message.partition, owned);
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
    if (textOf(message.data) !== pending?.text) {
      owned.stale.push(message);
      const consumer = consumerOf(message.data);
      if (consumer === this.#id) return;
      const tenure = tenureOf(message.data);
      if (owned.over.has(tenure)) return;
      if (owned.state === 'claiming') {
        const leaseMs = Math.max(leaseOf(message.data), owned.formerOwners.get(consumer) ?? 0);
        owned.formerOwners.set(consumer, leaseMs);
        owned.formerTenures.add(tenure);
      } else if (!owned.formerTenures.has(tenure)) {
        // No late claim of a former owner: somebody has had the partition since, and nothing has told of it.
        this.#giveUp(owned);
      }
      return;
    }
    owned.pending = undefined;
    owned.leaseEndsMs = pending.atMs + pending.leaseMs;
    owned.provenAtMs = pending.atMs;
    owned.tookMs = performance.now() - pending.atMs;
    this.#adapt(owned.tookMs);
    const first = owned.state === 'claiming';
    // Given up, and nobody else wanted it: the lease was too short.
    if (first && owned.again && owned.formerTenures.size === 0)
      this.#leaseMs = Math.min(LONGEST_LEASE_MS, 2 * this.#leaseMs);
    if (first) owned.state = owned.formerTenures.size > 0 ? 'waiting' : 'owned';
    if (owned.held) this.#subscription.acknowledge(owned.held);
    owned.held = message;
    if (owned.state === 'waiting') {
      // Whoever is handed everything once more meanwhile, this consumer or another, has to wait for the former owner, too.
      if (first) this.#await(owned, pending.atMs);
      return;
    }
    for (const old of owned.stale) this.#subscription.acknowledge(old);
    owned.stale = [];
  }

  /** Waits for the end of the former lease. What was acknowledged until then is known when everything comes once more. */
  #await(owned: OwnedPartition, claimedAtMs: number): void {
    if (owned.formerOwners.size === 0) {
      this.#beginAnew(owned);
      return;
    }
    const holdMs = Math.max(...owned.formerOwners.values()) + MARGIN_MS;
    setTimeout(() => this.#beginAnew(owned), claimedAtMs + holdMs - performance.now()).unref();
  }

  /** The former owners' tenures are over. Those that were over before stay so: their claims are handed out once more, too. */
  #beginAnew(owned: OwnedPartition): void {
    this.#giveUp(owned, new Set([...owned.over, ...owned.formerTenures]));
  }

  /** Claims longer leases where claims are slow to come back, so that a busy machine does not lose what it cannot hold. */
  #adapt(tookMs: number): void {
    const enoughMs = Math.max(LEASE_MS, PATIENCE * tookMs);
    const shorterMs = this.#leaseMs - (this.#leaseMs - enoughMs) * SHORTEN;
    this.#leaseMs = Math.min(LONGEST_LEASE_MS, Math.max(enoughMs, shorterMs));
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
    const claims = ++this.#ticks % (CLAIM_MS / TICK_MS) === 0;
    if (this.#closed || this.#renewing) return;
    const nowMs = performance.now();
    if (this.#subscription.connected) this.#downSinceMs = undefined;
    else this.#downSinceMs ??= nowMs;
    const provenAtMs = Math.max(...[...this.#owned.values()].map((owned) => owned.provenAtMs));
    for (const [partition, owned] of [...this.#owned]) {
      if (nowMs > owned.leaseEndsMs) this.#giveBack(partition, owned, 'its lease has ended');
      else if (isMissed(owned, nowMs, provenAtMs))
        // Told as a tenure that is over, so that a partition that comes back after all is no sign of a lease that was too short.
        this.#giveBack(partition, owned, 'its claim is missing', new Set([this.#tenureOf(owned)]));
      else if (claims && !owned.pending) this.#claim(partition, owned);
    }
    // Not only when something comes: a broker that had the partition elsewhere when it was asked may send nothing of its own accord.
    for (const { last, askedAtMs, passedOver, over } of [...this.#lapsed.values()])
      if (passedOver && nowMs - askedAtMs > ASK_AGAIN_MS) this.#lapse(passedOver, last, over);
    if (this.#downSinceMs !== undefined && nowMs - this.#downSinceMs > RECONNECT_MS)
      void this.#renew('the connection was lost');
    this.#handOut();
  }

  /** Gives up a partition, and takes back what was claimed of it: whoever has it now need not wait for the lease to end. */
  #giveBack(partition: number, owned: OwnedPartition, why: string, over: ReadonlySet<string> = NONE): void {
    this.#deps.logger.info({ partition }, `a partition of the message log is given back: ${why}`);
    this.#giveUp(owned, over);
    this.#publish(partition, RELEASE, this.#id).catch(() => {});
  }

  #claim(partition: number, owned: OwnedPartition): void {
    const leaseMs = Math.round(this.#leaseMs);
    const text = `${this.#tenureOf(owned)}/${++this.#claims}/${leaseMs}`;
    const claim = { text, atMs: performance.now(), leaseMs };
    owned.pending = claim;
    this.#publish(partition, CLAIM, text).catch(() => {
      if (owned.pending === claim) owned.pending = undefined;
    });
  }

  #tenureOf({ tenure }: OwnedPartition): string {
    return `${this.#id}/${tenure}`;
  }

  #publish(partition: number, kind: number, text: string): Promise<unknown> {
    return this.#deps.publish(partition, Buffer.concat([Buffer.from([NO_EVENT, kind]), Buffer.from(text, 'latin1')]));
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

/**
 * Whether a claim is missing, so that the partition is probably somebody else's: it takes longer than claims have taken lately,
 * and one of another partition that was published a good while after it is back already.
 */
function isMissed({ state, pending }: OwnedPartition, nowMs: number, provenAtMs: number): boolean {
  return (
    state === 'owned' &&
    pending !== undefined &&
    provenAtMs - pending.atMs > CLAIM_MS / 2 &&
    nowMs - pending.atMs > pending.leaseMs / PATIENCE
  );
}

function textOf(data: Buffer): string {
  return data.toString('latin1', 2);
}

/** Who has published a claim or a release. */
function consumerOf(data: Buffer): string {
  return textOf(data).split('/', 1)[0] as string;
}

/** In which of its tenures. */
function tenureOf(claim: Buffer): string {
  return textOf(claim).split('/', 2).join('/');
}

/** For how long, milliseconds. */
function leaseOf(claim: Buffer): number {
  return Number(textOf(claim).split('/')[3]);
}
