import type { ConsumeOptions, LogConsumer, LogRecord, MessageLog, Position } from '@chatmesh/chat';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { MeshError } from '@chatmesh/mesh';
import { type Host, Way, type World } from '../world.js';
import { Remote, type Temper } from './remote.js';

/** How long a consumer owns a partition after it was last heard of. */
const LEASE_MS = 3_000;
const RENEW_MS = 500;
/** An acknowledgement that nobody hurries is durable after this. */
const ACKNOWLEDGE_MS = 900;
/** So many records are handed out together at the most. */
const BATCH = 64;

interface Entry {
  readonly position: Position;
  readonly payload: Uint8Array;
  /** Some consumer was handed it. */
  handed: boolean;
  acknowledged: boolean;
}

interface Lease {
  readonly consumer: Consumer;
  readonly tenure: number;
  /** Until then nobody else is given it, by the world's clock. */
  untilMs: number;
  /** Which entry it is handed next. */
  next: number;
  /** It has been asked to let go. */
  revoked: boolean;
}

interface Partition {
  readonly number: number;
  readonly entries: Entry[];
  lease: Lease | undefined;
  /** Who is to have it. */
  wanted: Consumer | undefined;
}

/**
 * A log of several partitions in memory, as a broker keeps it: each partition is leased to one consumer, which has it until it lets go or
 * has not been heard of for a while.
 */
export class SimulatedLog {
  readonly #world: World;
  readonly #partitions: Partition[];
  readonly #consumers = new Set<Consumer>();
  #positions = 0;
  #tenures = 0;

  constructor(world: World, partitions: number) {
    this.#world = world;
    this.#partitions = Array.from({ length: partitions }, (_, number) => ({
      number,
      entries: [],
      lease: undefined,
      wanted: undefined,
    }));
    const tick = () => {
      this.#balance();
      world.after(RENEW_MS, tick);
    };
    world.after(0, tick);
  }

  /** The log as one process reaches it. */
  of(host: Host, temper: Temper): MessageLog {
    return new ClientOfLog(this, host, temper);
  }

  /** Events that nobody has acknowledged. */
  get backlog(): number {
    let count = 0;
    for (const { entries } of this.#partitions) for (const { acknowledged } of entries) if (!acknowledged) count++;
    return count;
  }

  /** What is on it and not acknowledged, for an error's text. */
  describe(): string {
    const left = this.#partitions.flatMap(({ entries, number, lease }) =>
      entries
        .filter(({ acknowledged }) => !acknowledged)
        .map(({ position, payload }) => {
          const { userId, kind } = LogEventWire.decode(payload);
          return `${position} ${kind.case} for ${userId} in ${number} of ${lease?.consumer.host.name ?? 'nobody'}`;
        }),
    );
    return left.slice(0, 10).join('\n');
  }

  /** Has another consumer take a partition over. */
  move(n: number): void {
    const partition = this.#partitions[n % this.#partitions.length] as Partition;
    const others = this.#alive().filter((consumer) => consumer !== partition.lease?.consumer);
    if (others.length > 0) partition.wanted = this.#world.random.among(others);
  }

  partitionOf(userId: string): Partition {
    let hash = 0;
    for (let i = 0; i < userId.length; i++) hash = (Math.imul(hash, 31) + userId.charCodeAt(i)) | 0;
    return this.#partitions[Math.abs(hash) % this.#partitions.length] as Partition;
  }

  append(events: readonly { userId: string; payload: Uint8Array }[]): Position[] {
    const positions = events.map(({ userId, payload }) => {
      const position = (++this.#positions).toString(16).padStart(16, '0');
      this.#world.tell('log', () => {
        const { kind } = LogEventWire.decode(payload);
        return `${position} for ${userId}: ${JSON.stringify(kind, (_, v) => (typeof v === 'bigint' ? Number(v) : v instanceof Uint8Array ? '' : v))}`;
      });
      this.partitionOf(userId).entries.push({ position, payload, handed: false, acknowledged: false });
      return position;
    });
    for (const partition of this.#partitions) this.#hand(partition);
    return positions;
  }

  holds(position: Position): boolean {
    return this.#partitions.some(({ entries }) => entries.some((e) => e.position === position && !e.acknowledged));
  }

  join(consumer: Consumer, askedAtMs: number): void {
    this.#consumers.add(consumer);
    this.renew(consumer, askedAtMs, new Set());
    this.#balance();
  }

  leave(consumer: Consumer): void {
    this.#consumers.delete(consumer);
    for (const partition of this.#partitions)
      if (partition.lease?.consumer === consumer) this.release(partition, partition.lease.tenure);
  }

  /** The consumer is there, or was when it asked, by its own clock: the leases that it still knows of are renewed. */
  renew(consumer: Consumer, askedAtMs: number, known: ReadonlySet<number>): void {
    consumer.heard = { askedAtMs, atMs: this.#world.nowMs };
    for (const { lease } of this.#partitions)
      if (lease?.consumer === consumer && !lease.revoked && known.has(lease.tenure))
        lease.untilMs = this.#world.nowMs + LEASE_MS;
  }

  /** A consumer lets a partition go. */
  release(partition: Partition, tenure: number): void {
    if (partition.lease?.tenure !== tenure) return;
    partition.lease = undefined;
    this.#balance();
  }

  acknowledge(consumer: Consumer, acknowledged: readonly { tenure: number; position: Position }[]): void {
    for (const { tenure, position } of acknowledged) {
      const partition = this.#partitions.find(({ lease }) => lease?.consumer === consumer && lease.tenure === tenure);
      const entry = partition?.entries.find((e) => e.position === position);
      if (entry) entry.acknowledged = true;
    }
    for (const partition of this.#partitions) this.#hand(partition);
  }

  #alive(): Consumer[] {
    const { nowMs } = this.#world;
    return [...this.#consumers].filter(({ host, heard }) => host.state !== 'dead' && nowMs < heard.atMs + LEASE_MS / 2);
  }

  /** Gives every partition to somebody, evenly, and takes those away that another one is to have. */
  #balance(): void {
    const { nowMs } = this.#world;
    const alive = this.#alive();
    for (const partition of this.#partitions) {
      const { lease } = partition;
      // The connection of one that is dead has broken.
      if (lease && (nowMs >= lease.untilMs || lease.consumer.host.state === 'dead')) partition.lease = undefined;
      if (partition.wanted && !alive.includes(partition.wanted)) partition.wanted = undefined;
      if (alive.length === 0) continue;
      const wanted = partition.wanted ?? alive[partition.number % alive.length];
      if (partition.lease && partition.lease.consumer !== wanted && !partition.lease.revoked) {
        partition.lease.revoked = true;
        partition.lease.consumer.revoke(partition, partition.lease.tenure);
      }
      if (partition.lease || !wanted) continue;
      const untilMs = wanted.heard.atMs + LEASE_MS;
      partition.lease = { consumer: wanted, tenure: ++this.#tenures, untilMs, next: 0, revoked: false };
      this.#world.tell('log', () => `${partition.number} is ${wanted.host.name}'s, tenure ${this.#tenures}`);
      wanted.grant(partition, partition.lease.tenure);
      this.#hand(partition);
    }
  }

  /** Sends the next records to whoever has the partition. */
  #hand(partition: Partition): void {
    const { lease, entries } = partition;
    if (!lease || lease.revoked) return;
    while (lease.next < entries.length) {
      const room = Math.min(BATCH, lease.consumer.room);
      if (room <= 0) return;
      const batch: LogRecord[] = [];
      for (; lease.next < entries.length && batch.length < room; lease.next++) {
        const entry = entries[lease.next] as Entry;
        if (entry.acknowledged) continue;
        // Now and then the log cannot tell.
        const mayRepeat = entry.handed || this.#world.random.oneIn(50);
        entry.handed = true;
        const { position, payload } = entry;
        batch.push({ position, payload, event: LogEventWire.decode(payload), mayRepeat, tenure: lease.tenure });
      }
      if (batch.length > 0) lease.consumer.send(batch);
    }
  }
}

/** One process' membership in the group of consumers. */
class Consumer implements LogConsumer {
  readonly host: Host;
  /** When it asked for the last renewal, by its own clock, and when the log heard of that. */
  heard = { askedAtMs: 0, atMs: 0 };
  readonly #log: SimulatedLog;
  readonly #remote: Remote;
  readonly #handle: (records: LogRecord[]) => void;
  readonly #options: ConsumeOptions;
  /** By tenure: which partition, and until when it is certain to be here, by the process' own clock. */
  readonly #leases = new Map<number, { partition: Partition; untilMs: number }>();
  readonly #out = new Map<Position, LogRecord>();
  #acknowledged: { tenure: number; position: Position }[] = [];
  readonly #way: Way;
  #onTheWay = 0;
  #closed = false;

  constructor(
    log: SimulatedLog,
    host: Host,
    temper: Temper,
    handle: (records: LogRecord[]) => void,
    options: ConsumeOptions,
  ) {
    this.#log = log;
    this.host = host;
    this.#remote = new Remote(host, temper);
    this.#handle = handle;
    this.#options = options;
    this.#way = new Way(host.world, host);
    host.world.at(host, () => {
      setInterval(() => this.#renew(), RENEW_MS);
      setInterval(() => void this.flushed().catch(() => {}), ACKNOWLEDGE_MS);
    });
  }

  get room(): number {
    return this.#options.maxUnacknowledged - this.#out.size - this.#onTheWay;
  }

  get unacknowledged(): number {
    return this.#out.size;
  }

  owns(userId: string): boolean {
    const partition = this.#log.partitionOf(userId);
    for (const lease of this.#leases.values())
      if (lease.partition === partition && this.host.monotonicMs < lease.untilMs) return true;
    return false;
  }

  oldestAtMs(): number | undefined {
    const [oldest] = this.#out.values();
    return oldest?.event.kind.case === 'message' ? Number(oldest.event.kind.value.acceptedAtMs) : undefined;
  }

  lagMs(): number {
    return 0;
  }

  acknowledge(records: readonly LogRecord[]): void {
    for (const { position, tenure } of records) {
      if (this.#out.get(position)?.tenure !== tenure) continue;
      this.#out.delete(position);
      this.#acknowledged.push({ tenure, position });
    }
  }

  async flushed(): Promise<void> {
    const acknowledged = this.#acknowledged;
    if (acknowledged.length === 0) return;
    this.#acknowledged = [];
    try {
      await this.#remote.call(() => this.#log.acknowledge(this, acknowledged));
    } catch (error) {
      this.#acknowledged.unshift(...acknowledged);
      throw error instanceof MeshError && error.kind === 'unavailable'
        ? error
        : new MeshError('unavailable', 'refused');
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.flushed().catch(() => {});
    this.#log.leave(this);
  }

  // From the broker.

  grant(partition: Partition, tenure: number): void {
    const { askedAtMs } = this.heard;
    this.#arrive(() => {
      this.#leases.set(tenure, { partition, untilMs: askedAtMs + LEASE_MS / 2 });
    });
  }

  revoke(partition: Partition, tenure: number): void {
    this.#arrive(() => {
      this.#lose(tenure);
      // What it has acknowledged counts, then the next one may have it.
      void this.flushed()
        .catch(() => {})
        .then(() => this.#log.release(partition, tenure));
    });
  }

  send(records: LogRecord[]): void {
    this.#onTheWay += records.length;
    this.#arrive(() => {
      this.#onTheWay -= records.length;
      const [first] = records;
      const lease = first && this.#leases.get(first.tenure);
      if (!lease || this.#closed) return;
      if (this.host.monotonicMs >= lease.untilMs) {
        this.#lose(first.tenure);
        return;
      }
      for (const record of records) this.#out.set(record.position, record);
      this.#handle(records);
    });
  }

  #arrive(then: () => void): void {
    this.#way.send(this.host.world.nowMs + this.#remote.wayMs(), then);
  }

  #renew(): void {
    if (this.#closed) return;
    const askedMs = this.host.monotonicMs;
    for (const [tenure, { untilMs }] of this.#leases) if (askedMs >= untilMs) this.#lose(tenure);
    const known = new Set(this.#leases.keys());
    this.#remote
      .call(() => this.#log.renew(this, askedMs, known))
      .then(
        () => {
          for (const lease of this.#leases.values()) lease.untilMs = Math.max(lease.untilMs, askedMs + LEASE_MS / 2);
        },
        () => {},
      );
  }

  #lose(tenure: number): void {
    if (!this.#leases.delete(tenure)) return;
    for (const [position, record] of this.#out) if (record.tenure === tenure) this.#out.delete(position);
    this.#options.lost?.(tenure);
  }
}

class ClientOfLog implements MessageLog {
  readonly publishedUntilMs = 0;
  readonly writable = true;
  readonly #log: SimulatedLog;
  readonly #host: Host;
  readonly #temper: Temper;
  readonly #remote: Remote;
  /** Publications take effect in the order of the calls. */
  readonly #way: Way;

  constructor(log: SimulatedLog, host: Host, temper: Temper) {
    this.#log = log;
    this.#host = host;
    this.#temper = temper;
    this.#remote = new Remote(host, temper);
    this.#way = new Way(host.world, host.world);
  }

  publish(events: readonly LogEvent[], record?: (positions: readonly Position[]) => void): Promise<Position[]> {
    const { world } = this.#host;
    const { random } = world;
    const encoded = events.map((event) => ({ userId: event.userId, payload: LogEventWire.encode(event) }));
    const { failures, awayUntilMs } = this.#temper;
    const arrivalMs = world.nowMs + this.#remote.wayMs();
    const away = world.nowMs < awayUntilMs;
    const fails = away || random.below(1000) < failures;
    // Partitions fail one by one: of what failed some may be there.
    const share = away ? 0 : random.among([0, 500, 1000] as const);
    const effective = fails ? encoded.filter(() => random.below(1000) < share) : encoded;
    return new Promise((resolve, reject) => {
      this.#way.send(arrivalMs, () => {
        const positions = this.#log.append(effective);
        this.#host.after(this.#remote.wayMs(), () => {
          if (fails) {
            reject(new MeshError('unavailable', 'simulated: the log did not answer'));
            return;
          }
          record?.(positions);
          resolve(positions);
        });
      });
    });
  }

  async consume(handle: (records: LogRecord[]) => void, options: ConsumeOptions): Promise<LogConsumer> {
    const consumer = new Consumer(this.#log, this.#host, this.#temper, handle, options);
    // As where the engines have to be waited for at the start.
    for (let joined = false; !joined; ) {
      const askedAtMs = this.#host.monotonicMs;
      joined = await this.#remote
        .call(() => this.#log.join(consumer, askedAtMs))
        .then(
          () => true,
          () => false,
        );
    }
    return consumer;
  }

  takesMessages(): boolean {
    return true;
  }

  holds(position: Position): boolean {
    return this.#log.holds(position);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
