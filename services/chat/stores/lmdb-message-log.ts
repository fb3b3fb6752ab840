import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { ChurnMap, type WallClock } from '@chatmesh/mesh';
import {
  countOf,
  DamagedPart,
  DamagedRow,
  type LmdbEnvironment,
  newRow,
  numberIn,
  partsOf,
  rowOfNumber,
  rowOfParts,
  type Table,
} from '@chatmesh/mesh/lmdb';
import { acceptedAtMs } from '../domain/events.js';
import type { ConsumeOptions, DamagedEvent, LogConsumer, LogRecord, MessageLog, Position } from './message-log.js';

/** Keys are spread over this many slots, and slots over consumers. */
const SLOTS = 256;
/** Acknowledgements of entries that are not yet whole are written this long after the first of them. */
const ACK_DELAY_MS = 200;
/** So many entries are read from the store before what they hold is handed over. */
const ENTRIES_AT_A_TIME = 16;
const POSITION_DIGITS = 13;
/** Events that wait to be handed out and need not be read from the store for that. */
const MAX_WARM = 20_000;
const META_NEXT = 0;
const META_TIME = 1;
/** Far more events than this were never accepted in a millisecond since 1970: see {@link nextAfterLoss}. */
const MAX_EVENTS_PER_MS = 256;
const BYTES_PER_INDEX = 4;
/** The key of an event of which nobody knows whose it is. */
const NOBODY = '';
const NONE = Number.POSITIVE_INFINITY;

export interface LmdbLogOptions {
  /** For a status store in the same environment: what publishers record then goes out with the group commit of their events. */
  readonly recordsTogether?: boolean;
  /** No earlier than any event that is being published was accepted. */
  readonly now?: WallClock;
}

/** The events of one group commit, as they were published. */
interface Events {
  readonly payloads: (Uint8Array | DamagedPart)[];
  /** Undefined where they have to be decoded: only there may some be damaged. */
  readonly events: LogEvent[] | undefined;
  readonly positions: Position[] | undefined;
}

interface Entry {
  readonly first: number;
  readonly count: number;
  /** What became of each event: undefined while it waits, the record while it is handed out, null once it is acknowledged. */
  readonly records: (Outstanding | null | undefined)[];
  /** Events that are not acknowledged. */
  open: number;
  /** Whether an acknowledgement waits to be written. */
  dirty: boolean;
  /** What was published a moment ago and is not handed out yet. */
  warm: Events | undefined;
}

interface Outstanding extends LogRecord {
  readonly index: number;
  readonly slot: Slot;
  readonly entry: Entry;
  readonly consumer: Consumer;
}

interface Slot {
  owner: Consumer | undefined;
  /** Who gets the slot when the present owner has acknowledged everything of it; until then nothing of it is handed out. */
  next: Consumer | undefined;
  /** Of the present owner; no other slot, and no other owner, has had the same. */
  tenure: number;
  /** Records that the owner holds. */
  owned: number;
  /** The first entry of which something waits for `next`; NONE when nothing does. */
  waiting: number;
}

interface Consumer extends LogConsumer {
  readonly handle: (records: LogRecord[]) => void;
  readonly lost: (tenure: number) => void;
  readonly damaged: (event: DamagedEvent) => Promise<void>;
  readonly maxUnacknowledged: number;
  outstanding: number;
  /** Handed out and about to be handled. */
  batch: LogRecord[];
}

/** Events of one group commit on their way to the disk. */
interface Group extends Events {
  readonly first: number;
  readonly payloads: Uint8Array[];
  readonly events: LogEvent[];
  readonly positions: Position[];
  done: Promise<void>;
}

/**
 * The message log of one machine. Events that are published while a flush is on its way become one entry, which is
 * deleted when all of its events are acknowledged; acknowledgements of parts of an entry are kept beside it.
 *
 * Consumers are members of this process. When one joins, a slot moves to it as soon as the former owner has
 * acknowledged what it holds of the slot; when one leaves, its slots move at once. Either way the cursor goes back to
 * the first event that is due again, and passes over those that somebody holds.
 */
export class LmdbMessageLog implements MessageLog {
  readonly #environment: LmdbEnvironment;
  /** Under the sequence number of a group's first event: its events, encoded, as parts. */
  readonly #entries: Table<number>;
  /** Under the same number: which of the events are acknowledged, as indexes of 4 bytes. */
  readonly #acks: Table<number>;
  readonly #meta: Table<number>;
  readonly #recordsTogether: boolean;
  readonly #now: WallClock;
  readonly publishedUntilMs: number;
  readonly #slots: Slot[] = Array.from({ length: SLOTS }, () => ({
    owner: undefined,
    next: undefined,
    tenure: 0,
    owned: 0,
    waiting: NONE,
  }));
  readonly #consumers: Consumer[] = [];
  #tenures = 0;
  /** Entries of which something is not acknowledged. */
  readonly #live = new ChurnMap<number, Entry>();
  #warm = 0;
  /** Everything in entries below was handed out, is acknowledged, or waits for its slot to move. */
  #cursor: number;
  /** So many events of the entry at the cursor are done with, too. */
  #cursorIndex = 0;
  /** The entry at the cursor, read. */
  #reading: { first: number; events: Events } | undefined;
  /** Events below are durable. */
  #durable: number;
  #next: number;
  /** Events below were handed out, except for those that wait for their slot to move. */
  #handedOut: number;
  /** Events below may have been handed out before. */
  #repeatsBelow: number;
  #backlog = 0;
  #group: Group | undefined;
  /** Entries that are acknowledged as a whole and still stored. */
  #whole: number[] = [];
  #dirty: Entry[] = [];
  #ackTimer: NodeJS.Timeout | undefined;
  /** The last write of acknowledgements; the environment keeps the order, so it stands for those before it. */
  #acksWritten: Promise<void> = Promise.resolve();
  #dispatching: NodeJS.Immediate | undefined;
  #writable = true;

  private constructor(
    environment: LmdbEnvironment,
    name: string,
    { recordsTogether = false, now = Date.now }: LmdbLogOptions,
  ) {
    this.#environment = environment;
    this.#recordsTogether = recordsTogether;
    this.#now = now;
    this.#entries = environment.sequence(`${name}.entries`);
    this.#acks = environment.sequence(`${name}.acks`);
    this.#meta = environment.sequence(`${name}.meta`);
    const isNew = this.#meta.keys({ limit: 1 }).length === 0;
    this.#next = numberIn(this.#meta.get(META_NEXT)) ?? (isNew ? 1 : nextAfterLoss());
    this.publishedUntilMs = numberIn(this.#meta.get(META_TIME)) ?? 0;
    this.#repeatsBelow = this.#next;
    this.#handedOut = this.#next;
    this.#durable = this.#next;
    this.#cursor = this.#next;
    this.#entries.forEach({}, (first, row) => {
      // The key is damaged: a number that was never given out.
      if (first >= this.#next) return;
      const count = row instanceof DamagedRow ? partsOf(first, row)?.length : countOf(row);
      // Where not even their number is known, the events are lost together, as one.
      const entry = newEntry(first, count ?? 1);
      for (const index of count === undefined ? [] : indexesIn(this.#acks.get(first))) {
        entry.records[index] = null;
        entry.open--;
      }
      this.#live.set(first, entry);
      this.#backlog += entry.open;
      this.#cursor = Math.min(this.#cursor, first);
    });
  }

  /**
   * Opens the topic `name` of an environment. `recordsTogether` is for a status store in the same environment: what
   * publishers record then goes out with the group commit of their events.
   */
  static open(environment: LmdbEnvironment, name: string, options: LmdbLogOptions = {}): LmdbMessageLog {
    return new LmdbMessageLog(environment, name, options);
  }

  /** Events published and not yet acknowledged. */
  get backlog(): number {
    return this.#backlog;
  }

  get writable(): boolean {
    return this.#writable;
  }

  /** The disk is the only limit, and {@link publish} meets it. */
  takesMessages(): boolean {
    return true;
  }

  holds(position: Position): boolean {
    const sequence = Number.parseInt(position, 16);
    for (const { first, count, records } of this.#live.values())
      if (sequence >= first && sequence < first + count) return records[sequence - first] !== null;
    return false;
  }

  async publish(events: readonly LogEvent[], record?: (positions: readonly Position[]) => void): Promise<Position[]> {
    if (events.length === 0) return [];
    // Encoded before anything is reserved: an event that cannot be must not shift the others.
    const payloads = events.map((event) => LogEventWire.encode(event));
    this.#group ??= this.#openGroup();
    const group = this.#group;
    const positions: Position[] = [];
    for (let i = 0; i < events.length; i++) {
      const position = positionOf(this.#next++);
      positions.push(position);
      group.positions.push(position);
      group.payloads.push(payloads[i] as Uint8Array);
      group.events.push(events[i] as LogEvent);
    }
    if (this.#recordsTogether) record?.(positions);
    await group.done;
    if (!this.#recordsTogether) record?.(positions);
    return positions;
  }

  async consume(handle: (records: LogRecord[]) => void, options: ConsumeOptions): Promise<LogConsumer> {
    const consumer: Consumer = {
      handle,
      lost: options.lost ?? (() => {}),
      damaged: options.damaged ?? (() => Promise.resolve()),
      maxUnacknowledged: options.maxUnacknowledged,
      outstanding: 0,
      batch: [],
      get unacknowledged() {
        return this.outstanding;
      },
      owns: (userId) => this.#slots[slotOf(userId)]?.owner === consumer,
      lagMs: () => 0,
      oldestAtMs: () => this.#oldestAtMs(consumer),
      acknowledge: (records) => this.#acknowledge(consumer, records as readonly Outstanding[]),
      flushed: () => this.#writeAcks(),
      close: async () => this.#leave(consumer),
    };
    this.#consumers.push(consumer);
    this.#assign();
    this.#dispatchSoon();
    return consumer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const consumer of [...this.#consumers]) this.#leave(consumer);
    clearImmediate(this.#dispatching);
    await this.#writeAcks().catch(() => {});
    await this.#environment.settled();
    clearTimeout(this.#ackTimer);
  }

  #openGroup(): Group {
    const group: Group = { first: this.#next, payloads: [], events: [], positions: [], done: Promise.resolve() };
    const write = this.#environment.write(() => {
      this.#group = undefined;
      this.#entries.put(group.first, rowOfParts(group.first, group.payloads));
      this.#meta.put(META_NEXT, rowOfNumber(this.#next));
      this.#meta.put(META_TIME, rowOfNumber(this.#now()));
      // What is done with goes with what is new: a group commit of its own would cost as much as one that carries something.
      if (this.#whole.length > 0) this.#removeWhole(write);
    });
    group.done = write.then(
      () => this.#stored(group),
      (error) => {
        if (this.#group === group) this.#group = undefined;
        this.#writable = false;
        throw error;
      },
    );
    return group;
  }

  /** A group is durable: its events go to the owners, unless older ones still wait in the store. */
  #stored(group: Group): void {
    this.#writable = true;
    const { first, events } = group;
    const count = events.length;
    const entry = newEntry(first, count);
    this.#live.set(first, entry);
    this.#backlog += count;
    const caughtUp = this.#cursor === this.#durable;
    this.#durable = first + count;
    if (this.#consumers.length === 0) {
      // Sequence numbers of a group that failed are never stored: the cursor passes over them.
      if (caughtUp) this.#cursor = first;
      return;
    }
    if (caughtUp) {
      const complete = this.#handOut(entry, 0, group);
      this.#cursor = complete ? this.#durable : first;
      this.#deliver();
      if (complete) return;
    } else this.#dispatchSoon();
    if (this.#warm + count > MAX_WARM) return;
    this.#warm += count;
    entry.warm = group;
  }

  #dispatchSoon(): void {
    if (this.#cursor === this.#durable) return;
    this.#dispatching ??= setImmediate(() => {
      this.#dispatching = undefined;
      // What waits is handed out after the next start.
      if (!this.#environment.closing) this.#dispatch();
    });
  }

  /** Hands out what waits in the store, in order, until an owner has no room; its next acknowledgement goes on. */
  #dispatch(): void {
    while (this.#cursor < this.#durable && this.#consumers.length > 0) {
      const range = { start: this.#cursor, end: this.#durable, limit: ENTRIES_AT_A_TIME };
      const firsts = this.#entries.keys(range);
      let room = true;
      for (const first of firsts) {
        const entry = this.#live.get(first);
        room = !entry || this.#handOutStored(entry);
        if (!room) break;
        if (entry?.warm) this.#cool(entry);
        this.#advance(first + (entry?.count ?? 1));
      }
      if (room && firsts.length < ENTRIES_AT_A_TIME) this.#advance(this.#durable);
      this.#deliver();
      if (!room) return;
    }
  }

  #handOutStored(entry: Entry): boolean {
    const { first } = entry;
    if (this.#cursor !== first) this.#advance(first);
    if (entry.warm) return this.#handOut(entry, this.#cursorIndex, entry.warm);
    if (this.#reading?.first !== first) {
      this.#reading = { first, events: { payloads: this.#read(entry), events: undefined, positions: undefined } };
    }
    return this.#handOut(entry, this.#cursorIndex, this.#reading.events);
  }

  #cool(entry: Entry): void {
    this.#warm -= entry.count;
    entry.warm = undefined;
  }

  #advance(cursor: number): void {
    this.#cursor = cursor;
    this.#cursorIndex = 0;
    this.#reading = undefined;
  }

  /** Goes back to an entry of which something is due again. */
  #rewind(first: number): void {
    if (first <= this.#cursor) this.#advance(first);
  }

  /** Hands out what is due of an entry, from index `from` on; false when an owner has no room for the next event. */
  #handOut(entry: Entry, from: number, { payloads, events, positions }: Events): boolean {
    const { records } = entry;
    for (let index = from; index < entry.count; index++) {
      if (records[index] !== undefined) continue;
      const sequence = entry.first + index;
      const found = payloads[index] as Uint8Array | DamagedPart;
      const damaged = found instanceof DamagedPart;
      const payload = damaged ? found.bytes : found;
      const event = events?.[index] ?? (damaged ? LogEventWire.create() : LogEventWire.decode(payload));
      const slot = this.#slots[slotOf(damaged ? NOBODY : event.userId)] as Slot;
      if (slot.next) {
        slot.waiting = Math.min(slot.waiting, entry.first);
        continue;
      }
      const consumer = slot.owner as Consumer;
      if (consumer.outstanding >= consumer.maxUnacknowledged) {
        this.#cursorIndex = index;
        return false;
      }
      const mayRepeat = sequence < this.#repeatsBelow;
      const position = positions?.[index] ?? positionOf(sequence);
      const { tenure } = slot;
      const record: Outstanding = { position, event, payload, mayRepeat, tenure, index, slot, entry, consumer };
      records[index] = record;
      if (sequence >= this.#handedOut) this.#handedOut = sequence + 1;
      slot.owned++;
      consumer.outstanding++;
      if (damaged) this.#lose(record);
      else consumer.batch.push(record);
    }
    return true;
  }

  /** Has the consumer deal with an event of which nothing sound is left; until it has, the log keeps it. */
  #lose(record: Outstanding): void {
    const { consumer, position, payload } = record;
    consumer.damaged({ position, bytes: payload }).then(
      () => this.#acknowledge(consumer, [record]),
      () => {},
    );
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
    for (const record of records) {
      const { entry, index, slot } = record;
      // An owner that lost the key has no say in it any more.
      if (entry.records[index] !== record || record.consumer !== consumer) continue;
      entry.records[index] = null;
      entry.open--;
      consumer.outstanding--;
      this.#backlog--;
      if (entry.open === 0) {
        if (entry.warm) this.#cool(entry);
        this.#live.delete(entry.first);
        this.#whole.push(entry.first);
      } else this.#markDirty(entry);
      slot.owned--;
      if (slot.next && slot.owned === 0) this.#give(slot, slot.next);
    }
    if (this.#whole.length > 0) this.#writeAcksLater();
    this.#dispatchSoon();
  }

  #oldestAtMs(consumer: Consumer): number | undefined {
    if (consumer.outstanding === 0) return undefined;
    for (const { records } of this.#live.values()) {
      for (const record of records) {
        const atMs = record?.consumer === consumer ? acceptedAtMs(record.event) : undefined;
        if (atMs !== undefined) return atMs;
      }
    }
    return undefined;
  }

  #markDirty(entry: Entry): void {
    if (entry.dirty) return;
    entry.dirty = true;
    this.#dirty.push(entry);
    this.#writeAcksLater();
  }

  #writeAcksLater(): void {
    if (this.#environment.closing) return;
    this.#ackTimer ??= setTimeout(() => void this.#writeAcks().catch(() => {}), ACK_DELAY_MS).unref();
  }

  /** Writes every acknowledgement that is not on the disk; resolves when that, and what was on its way, is there. */
  #writeAcks(): Promise<void> {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    const dirty = this.#dirty;
    this.#dirty = [];
    if (dirty.length === 0 && this.#whole.length === 0) return this.#acksWritten;
    for (const entry of dirty) entry.dirty = false;
    const write = this.#environment.write(() => {
      for (const entry of dirty) {
        if (this.#live.has(entry.first)) this.#acks.put(entry.first, acknowledgedOf(entry));
      }
      this.#removeWhole(write);
    });
    write.catch(() => {
      for (const entry of dirty) if (this.#live.has(entry.first)) this.#markDirty(entry);
    });
    this.#acksWritten = write;
    return write;
  }

  /** Removes, as a part of `write`, entries that are acknowledged as a whole. */
  #removeWhole(write: Promise<void>): void {
    const whole = this.#whole;
    this.#whole = [];
    for (const first of whole) {
      this.#entries.remove(first);
      this.#acks.remove(first);
    }
    this.#acksWritten = write;
    write.catch(() => {
      this.#whole.push(...whole);
      this.#writeAcksLater();
    });
  }

  /** Spreads the slots over the consumers; a slot in use moves when its owner is done with it. */
  #assign(): void {
    for (let index = 0; index < SLOTS; index++) {
      const slot = this.#slots[index] as Slot;
      const wanted = this.#consumers[index % this.#consumers.length];
      if (slot.owner && slot.owned > 0 && slot.owner !== wanted) slot.next = wanted;
      else this.#give(slot, wanted);
    }
  }

  /** A slot belongs to `owner` from now on, and what waited for that is due. */
  #give(slot: Slot, owner: Consumer | undefined): void {
    if (slot.owner !== owner) {
      const { owner: former, tenure } = slot;
      slot.owner = owner;
      slot.tenure = ++this.#tenures;
      if (former && this.#consumers.includes(former)) former.lost(tenure);
    }
    slot.next = undefined;
    this.#rewind(slot.waiting);
    slot.waiting = NONE;
  }

  #leave(consumer: Consumer): void {
    const index = this.#consumers.indexOf(consumer);
    if (index < 0) return;
    this.#consumers.splice(index, 1);
    consumer.batch = [];
    for (const entry of this.#live.values()) {
      for (const record of entry.records) {
        if (record?.consumer !== consumer) continue;
        entry.records[record.index] = undefined;
        this.#rewind(entry.first);
        this.#repeatsBelow = this.#handedOut;
        record.slot.owned = 0;
      }
    }
    this.#assign();
    this.#dispatchSoon();
  }

  #read({ first, count }: Entry): (Uint8Array | DamagedPart)[] {
    const row = this.#entries.get(first);
    const parts = row && partsOf(first, row);
    if (parts?.length === count) return parts;
    const bytes = row instanceof DamagedRow ? row.bytes : Buffer.alloc(0);
    return new Array<DamagedPart>(count).fill(new DamagedPart(bytes));
  }
}

/**
 * Where sequence numbers go on when the next one is not known. Rows of inboxes and status records bear them, so that none may
 * come again, and each has to be greater than all before it: so many events cannot have been accepted so far.
 */
function nextAfterLoss(): number {
  return Date.now() * MAX_EVENTS_PER_MS;
}

function newEntry(first: number, count: number): Entry {
  const records = new Array<Outstanding | null | undefined>(count).fill(undefined);
  return { first, count, records, open: count, dirty: false, warm: undefined };
}

/** Indexes of the events that are acknowledged. */
function acknowledgedOf({ records, count, open }: Entry): Buffer {
  const row = newRow((count - open) * BYTES_PER_INDEX);
  let at = 0;
  for (const [index, record] of records.entries()) if (record === null) at = row.writeUInt32LE(index, at);
  return row;
}

/** What is damaged acknowledges nothing: its events are handed out again, and their status records say who has them. */
function indexesIn(row: Buffer | DamagedRow | undefined): number[] {
  const indexes: number[] = [];
  if (!row || row instanceof DamagedRow) return indexes;
  for (let at = 0; at < row.length; at += BYTES_PER_INDEX) indexes.push(row.readUInt32LE(at));
  return indexes;
}

function positionOf(sequence: number): Position {
  return sequence.toString(16).padStart(POSITION_DIGITS, '0');
}

/** FNV-1a over the key's characters: spreads UUIDs and needs no more. */
function slotOf(key: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193);
  return (h >>> 0) % SLOTS;
}
