import { crc32 } from 'node:zlib';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type LogEvent, LogEventSchema } from '@chatmesh/gen/chat/v1/log';
import { MeshError } from '@chatmesh/mesh';
import type { Database, LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import type { LogConsumer, LogRecord, MessageLog, Position } from './message-log.js';

/** Keys are spread over this many slots, and slots over consumers. */
const SLOTS = 256;
/** Acknowledgements of entries that are not yet whole are written this long after the first of them. */
const PARTIAL_ACK_DELAY_MS = 200;
const POSITION_DIGITS = 13;
const META_NEXT = 0;

/** What is stored under an entry's first sequence number: the events of one group, framed and checked. */
interface StoredEntry {
  count: number;
  crc: number;
  data: Uint8Array;
}

interface Entry {
  readonly first: number;
  readonly count: number;
  acknowledged: Set<number>;
  dirty: boolean;
}

interface Outstanding extends LogRecord {
  readonly sequence: number;
  readonly slot: number;
  readonly entry: Entry;
  consumer: Consumer;
}

interface Slot {
  owner: Consumer | undefined;
  /** Who gets the slot when the present owner has acknowledged everything of it. */
  next: Consumer | undefined;
  /** Records that the owner holds. */
  owned: number;
}

/**
 * The message log of one machine. Events that are published while a flush is on its way become one entry, which is
 * deleted when all of its events are acknowledged; acknowledgements of parts of an entry are kept beside it.
 *
 * Consumers are members of this process. When one joins, a slot moves to it as soon as the former owner has
 * acknowledged what it holds of the slot; when one leaves, its slots move at once and are handed out again.
 */
export class LmdbMessageLog implements MessageLog {
  readonly #environment: LmdbEnvironment;
  readonly #entries: Database<StoredEntry, number>;
  readonly #acks: Database<number[], number>;
  readonly #meta: Database<number, number>;
  readonly #name: string;
  readonly #slots: Slot[] = Array.from({ length: SLOTS }, () => ({ owner: undefined, next: undefined, owned: 0 }));
  readonly #consumers: Consumer[] = [];
  readonly #live = new Map<number, Entry>();
  /** Handed out and not acknowledged, in order. */
  readonly #outstanding = new Map<number, Outstanding>();
  /** Events below were handed out; those from here on wait in the store. */
  #cursor: number;
  /** Events below are durable. */
  #durable: number;
  #next: number;
  /** Events below may have been handed out before. */
  #repeatsBelow: number;
  #backlog = 0;
  #group: { events: Uint8Array[]; decoded: LogEvent[]; first: number; done: Promise<void> } | undefined;
  #dirty: Entry[] = [];
  #dirtyTimer: NodeJS.Timeout | undefined;
  #reading = false;
  #writable = true;

  private constructor(environment: LmdbEnvironment, name: string) {
    this.#environment = environment;
    this.#name = name;
    this.#entries = environment.sequence<StoredEntry>(`${name}.entries`);
    this.#acks = environment.sequence<number[]>(`${name}.acks`);
    this.#meta = environment.sequence<number>(`${name}.meta`);
    this.#next = this.#meta.get(META_NEXT) ?? 1;
    this.#repeatsBelow = this.#next;
    this.#durable = this.#next;
    this.#cursor = this.#next;
    for (const { key, value } of this.#entries.getRange()) {
      this.#check(key, value);
      const entry: Entry = { first: key, count: value.count, acknowledged: new Set(), dirty: false };
      for (const index of this.#acks.get(key) ?? []) entry.acknowledged.add(index);
      this.#live.set(key, entry);
      this.#backlog += entry.count - entry.acknowledged.size;
      this.#cursor = Math.min(this.#cursor, key);
    }
  }

  /**
   * Opens the topic `name` of an environment.
   *
   * @throws MeshError `failed_precondition` when an entry is damaged.
   */
  static open(environment: LmdbEnvironment, name: string): LmdbMessageLog {
    return new LmdbMessageLog(environment, name);
  }

  get backlog(): number {
    return this.#backlog;
  }

  get writable(): boolean {
    return this.#writable;
  }

  async publish(events: readonly LogEvent[]): Promise<Position[]> {
    let group = this.#group;
    if (!group) {
      const created = { events: [] as Uint8Array[], decoded: [] as LogEvent[], first: this.#next, done: Promise.resolve() };
      created.done = this.#environment.write(() => this.#store(created)).then(
        () => this.#stored(created),
        (error) => {
          this.#writable = false;
          throw error;
        },
      );
      this.#group = group = created;
    }
    const first = this.#next;
    this.#next += events.length;
    for (const event of events) {
      group.events.push(toBinary(LogEventSchema, event));
      group.decoded.push(event);
    }
    await group.done;
    return events.map((_, i) => positionOf(first + i));
  }

  async consume(handle: (records: LogRecord[]) => void, options: { maxUnacknowledged: number }): Promise<LogConsumer> {
    const consumer: Consumer = {
      handle,
      maxUnacknowledged: options.maxUnacknowledged,
      outstanding: 0,
      batch: [],
      acknowledge: (records) => this.#acknowledge(consumer, records as readonly Outstanding[]),
      close: async () => this.#leave(consumer),
    };
    this.#consumers.push(consumer);
    this.#assign();
    this.#dispatchFromStore();
    return consumer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const consumer of [...this.#consumers]) this.#leave(consumer);
    clearTimeout(this.#dirtyTimer);
    this.#writePartialAcks();
    await this.#environment.settled();
  }

  #store(group: { events: Uint8Array[]; first: number }): void {
    this.#group = undefined;
    const data = frame(group.events);
    void this.#entries.put(group.first, { count: group.events.length, crc: crc32(data), data });
    void this.#meta.put(META_NEXT, this.#next);
  }

  /** A group is durable: hand it to the owners, unless older events still wait in the store. */
  #stored(group: { events: Uint8Array[]; decoded: LogEvent[]; first: number }): void {
    this.#writable = true;
    const count = group.events.length;
    const entry: Entry = { first: group.first, count, acknowledged: new Set(), dirty: false };
    this.#live.set(group.first, entry);
    this.#backlog += count;
    const caughtUp = this.#cursor === this.#durable && !this.#reading;
    this.#durable = group.first + count;
    if (!caughtUp || !this.#hasRoom()) {
      this.#dispatchFromStore();
      return;
    }
    this.#cursor = this.#durable;
    for (let i = 0; i < count; i++) {
      this.#handOut(entry, group.first + i, group.decoded[i] as LogEvent, group.events[i] as Uint8Array);
    }
    this.#deliver();
  }

  /** Hands out what waits in the store, entry by entry, while every consumer has room. */
  #dispatchFromStore(): void {
    if (this.#reading || this.#consumers.length === 0) return;
    this.#reading = true;
    try {
      while (this.#cursor < this.#durable && this.#hasRoom()) {
        let read = 0;
        for (const { key, value } of this.#entries.getRange({ start: this.#cursor, end: this.#durable, limit: 16 })) {
          if (!this.#hasRoom()) break;
          this.#check(key, value);
          const entry = this.#live.get(key);
          this.#cursor = key + value.count;
          read++;
          if (!entry) continue;
          const payloads = unframe(value.data);
          for (let i = 0; i < value.count; i++) {
            if (entry.acknowledged.has(i)) continue;
            const payload = payloads[i] as Uint8Array;
            this.#handOut(entry, key + i, fromBinary(LogEventSchema, payload), payload);
          }
        }
        // Sequence numbers of a group that failed are never stored.
        if (read === 0 && this.#hasRoom()) this.#cursor = this.#durable;
        this.#deliver();
      }
    } finally {
      this.#reading = false;
    }
  }

  #hasRoom(): boolean {
    return this.#consumers.length > 0 && this.#consumers.every((c) => c.outstanding < c.maxUnacknowledged);
  }

  #handOut(entry: Entry, sequence: number, event: LogEvent, payload: Uint8Array): void {
    const index = slotOf(event.userId);
    const slot = this.#slots[index] as Slot;
    const consumer = slot.owner as Consumer;
    const record: Outstanding = {
      position: positionOf(sequence),
      event,
      payload,
      mayRepeat: sequence < this.#repeatsBelow,
      sequence,
      slot: index,
      entry,
      consumer,
    };
    this.#outstanding.set(sequence, record);
    // While the slot waits for its former owner, its records wait with it, unseen by either.
    if (slot.next) record.consumer = HELD;
    else {
      slot.owned++;
      consumer.outstanding++;
      consumer.batch.push(record);
    }
  }

  #deliver(): void {
    for (const consumer of [...this.#consumers]) {
      if (consumer.batch.length === 0) continue;
      const batch = consumer.batch;
      consumer.batch = [];
      consumer.handle(batch);
    }
  }

  #acknowledge(consumer: Consumer, records: readonly Outstanding[]): void {
    const whole: number[] = [];
    for (const record of records) {
      const current = this.#outstanding.get(record.sequence);
      // An owner that lost the key has no say in it any more.
      if (!current || current.consumer !== consumer) continue;
      this.#outstanding.delete(record.sequence);
      consumer.outstanding--;
      this.#backlog--;
      const slot = this.#slots[record.slot] as Slot;
      slot.owned--;
      const { entry } = record;
      entry.acknowledged.add(record.sequence - entry.first);
      if (entry.acknowledged.size === entry.count) {
        this.#live.delete(entry.first);
        whole.push(entry.first);
      } else if (!entry.dirty) {
        entry.dirty = true;
        this.#dirty.push(entry);
        this.#dirtyTimer ??= setTimeout(() => this.#writePartialAcks(), PARTIAL_ACK_DELAY_MS).unref();
      }
      if (slot.next && slot.owned === 0) this.#handOver(record.slot);
    }
    if (whole.length > 0) {
      void this.#environment.write(() => {
        for (const first of whole) {
          void this.#entries.remove(first);
          void this.#acks.remove(first);
        }
      });
    }
    this.#deliver();
    if (this.#cursor < this.#durable) setImmediate(() => this.#dispatchFromStore());
  }

  #writePartialAcks(): void {
    this.#dirtyTimer = undefined;
    const dirty = this.#dirty.filter((entry) => this.#live.has(entry.first));
    for (const entry of this.#dirty) entry.dirty = false;
    this.#dirty = [];
    if (dirty.length === 0) return;
    void this.#environment.write(() => {
      for (const entry of dirty) {
        if (this.#live.has(entry.first)) void this.#acks.put(entry.first, [...entry.acknowledged]);
      }
    });
  }

  /** Spreads the slots over the consumers; a slot in use moves when its owner is done with it. */
  #assign(): void {
    for (let index = 0; index < SLOTS; index++) {
      const slot = this.#slots[index] as Slot;
      const wanted = this.#consumers[index % this.#consumers.length];
      if (!slot.owner || slot.owned === 0) {
        slot.owner = wanted;
        slot.next = undefined;
      } else slot.next = wanted === slot.owner ? undefined : wanted;
    }
  }

  /** The former owner has acknowledged all it held: the held records go to the next one, in order. */
  #handOver(index: number): void {
    const slot = this.#slots[index] as Slot;
    slot.owner = slot.next as Consumer;
    slot.next = undefined;
    for (const record of this.#outstanding.values()) {
      if (record.slot === index) this.#redeliver(record, slot.owner);
    }
  }

  #redeliver(record: Outstanding, consumer: Consumer): void {
    const again: Outstanding = { ...record, consumer, mayRepeat: true };
    // Replacing the value keeps the place in the map's order.
    this.#outstanding.set(record.sequence, again);
    consumer.outstanding++;
    if (record.consumer === HELD) (this.#slots[record.slot] as Slot).owned++;
    consumer.batch.push(again);
  }

  #leave(consumer: Consumer): void {
    const index = this.#consumers.indexOf(consumer);
    if (index < 0) return;
    this.#consumers.splice(index, 1);
    for (let s = 0; s < SLOTS; s++) {
      const slot = this.#slots[s] as Slot;
      if (slot.next === consumer) slot.next = undefined;
      if (slot.owner === consumer) {
        slot.owner = slot.next ?? this.#consumers[s % Math.max(1, this.#consumers.length)];
        slot.next = undefined;
      }
    }
    if (this.#consumers.length === 0) {
      // Nobody is there: everything outstanding waits in the store again.
      const first = this.#outstanding.values().next().value;
      if (first) this.#cursor = first.entry.first;
      this.#outstanding.clear();
      this.#repeatsBelow = this.#durable;
      for (const slot of this.#slots) slot.owned = 0;
      return;
    }
    for (const record of [...this.#outstanding.values()]) {
      const slot = this.#slots[record.slot] as Slot;
      if (record.consumer === consumer || (record.consumer === HELD && !slot.next)) this.#redeliver(record, slot.owner as Consumer);
    }
    this.#assign();
    this.#deliver();
  }

  #check(first: number, entry: StoredEntry): void {
    if (crc32(entry.data) !== entry.crc) {
      throw new MeshError('failed_precondition', `entry ${first} of the log "${this.#name}" is damaged (checksum differs)`);
    }
  }
}

interface Consumer extends LogConsumer {
  readonly handle: (records: LogRecord[]) => void;
  readonly maxUnacknowledged: number;
  outstanding: number;
  batch: Outstanding[];
}

/** Stands for "nobody yet" while a slot moves. */
const HELD = { outstanding: 0 } as Consumer;

function positionOf(sequence: number): Position {
  return sequence.toString(16).padStart(POSITION_DIGITS, '0');
}

/** FNV-1a over the key's characters: spreads UUIDs and needs no more. */
function slotOf(key: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193);
  return (h >>> 0) % SLOTS;
}

/** [length u32][bytes] for each payload. */
function frame(payloads: readonly Uint8Array[]): Buffer {
  let size = 0;
  for (const p of payloads) size += 4 + p.length;
  const data = Buffer.allocUnsafe(size);
  let at = 0;
  for (const p of payloads) {
    data.writeUInt32LE(p.length, at);
    data.set(p, at + 4);
    at += 4 + p.length;
  }
  return data;
}

function unframe(data: Uint8Array): Uint8Array[] {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const payloads: Uint8Array[] = [];
  for (let at = 0; at < data.length; ) {
    const size = view.getUint32(at, true);
    payloads.push(data.subarray(at + 4, at + 4 + size));
    at += 4 + size;
  }
  return payloads;
}
