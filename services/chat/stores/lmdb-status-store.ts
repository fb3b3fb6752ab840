import { ChurnMap, IdTable, keyOf } from '@chatmesh/mesh';
import { DamagedRow, type LmdbEnvironment, newRow, numberIn, rowOfNumber, type Table } from '@chatmesh/mesh/lmdb';
import { rowOfBatch, textOf, versionsIn } from './lmdb-status-batch.js';
import { acceptedAt, idOf, merged, positionOf, type Row, recordOf, rowOf } from './lmdb-status-row.js';
import { RecentBatches } from './recent-batches.js';
import { DAMAGED, type StatusAnswer, type StatusRecord, type StatusStore, type StatusUpdate } from './status-store.js';

/**
 * So many places of the latest records are kept in memory, some 50 bytes each, before they are merged into the index:
 * a merge writes most pages of an index of a million records, so that twice as many records cost half as much each.
 */
const MERGE_AT = 65_536;
const META_INDEXED = 0;
/** Ids that were looked up in vain are remembered, since what is looked up is accepted next. */
const REMEMBERED_ABSENT = 8192;
/** A place has 16 bits for the index in its batch. */
const MAX_ROWS = 0x10000;
/** Who looks for one row of a batch that is not at hand reads all of it. */
const ROWS_PER_BATCH = 64;
const NOWHERE = -1;
/** In place of a place that is damaged: of a record that exists, nobody knows where. */
const UNKNOWN = -2;

const DONE = Promise.resolve();

/** Where a version of a record is: the batch's number times {@link MAX_ROWS}, plus the row's index in it. */
type Place = number;

/** Versions that go out with one group commit, in one batch or several, and the place of what each replaces. */
interface Batch {
  readonly number: number;
  readonly rows: Row[];
  /** The rows as they are stored. */
  text: string;
  readonly replaced: Place[];
  /** Batches that this one's commit removes. */
  removed: readonly number[];
  done: Promise<void>;
}

/**
 * Status records in batches in the order of time, and an index from id to place.
 *
 * Ids are hashes, so a table in their order would touch a page of its own for each write, and the more so the more it
 * holds. Here a group commit writes batches of rows at the end of a sequence; the places of the latest records are kept in
 * memory (and rebuilt at start from the batches that the index does not cover), and go into the index many at a time, in
 * order. A batch of which every record has a newer version is deleted.
 */
export class LmdbStatusStore implements StatusStore {
  readonly #environment: LmdbEnvironment;
  /** The rows of a batch, each of them a part that ends with a line break. */
  readonly #batches: Table<number>;
  readonly #index: Table<Buffer>;
  readonly #meta: Table<number>;
  /** Places of the newest versions that the index does not know yet. */
  #recent = new IdTable();
  /** Those that are being merged into the index. */
  #merging = new IdTable();
  #mergeRuns = false;
  /** Records of a batch that have no newer version; batches that were there at start are not counted. */
  readonly #liveIn = new Map<number, number>();
  /** Batches of which every record has a newer version; they go with the next commit. */
  #dead: number[] = [];
  /** Ids that the index does not know. */
  readonly #absent = new IdTable();
  /** Records that were found to be damaged; the next acceptance of the message writes another one. */
  readonly #damaged = new Set<string>();
  #nextBatch: number;
  #open: Batch | undefined;
  /** Batches on their way to the disk, by number. */
  readonly #unwritten = new ChurnMap<number, Batch>();
  /** Most records change once or twice soon after they were written. */
  readonly #atHand = new RecentBatches();

  constructor(environment: LmdbEnvironment) {
    this.#environment = environment;
    this.#batches = environment.sequence('status.batches');
    this.#index = environment.table('status.index');
    this.#meta = environment.sequence('status.meta');
    let last = this.#indexed;
    this.#batches.forEach({ start: last + 1 }, (batch, stored) => {
      const from = batch * MAX_ROWS;
      for (const [index, version] of versionsIn(batch, stored).entries()) {
        if (typeof version === 'string') this.#recent.set(idOf(version), from + index);
        else this.#suspect(version.ids, from + index);
      }
      last = batch;
    });
    this.#nextBatch = last + 1;
  }

  async accept(records: readonly StatusRecord[]): Promise<void> {
    const written = new Set<Promise<void>>();
    for (const record of records) {
      const id = record.serverMessageId;
      const place = this.#placeOf(id);
      const found = place === undefined ? undefined : this.#rowAt(place);
      if (place === undefined || found === undefined || this.#damaged.has(id))
        written.add(this.#put(id, rowOf(record)));
      else {
        const earlier = typeof found === 'string' && record.position < positionOf(found);
        written.add(earlier ? this.#put(id, acceptedAt(found, record)) : this.#written(place));
      }
    }
    await all(written);
  }

  async get(serverMessageIds: readonly string[]): Promise<StatusAnswer[]> {
    return serverMessageIds.map((id) => {
      const place = this.#placeOf(id);
      const row = place === undefined ? undefined : this.#rowAt(place);
      if (row === DAMAGED) this.#damaged.add(id);
      return typeof row === 'string' ? recordOf(row) : row;
    });
  }

  async update(updates: readonly StatusUpdate[]): Promise<void> {
    const written = new Set<Promise<void>>();
    for (const update of updates) {
      const id = update.serverMessageId;
      const place = this.#placeOf(id);
      const found = place === undefined ? undefined : this.#rowAt(place);
      const row = typeof found === 'string' ? found : update.base && rowOf(update.base());
      if (row === undefined) continue;
      const newer = merged(row, update);
      written.add(place !== undefined && newer === found ? this.#written(place) : this.#put(id, newer));
    }
    await all(written);
  }

  async expire(beforeMs: number): Promise<boolean> {
    const expired: number[] = [];
    const ids: string[] = [];
    // Of a batch without a sound row the age is not known: it goes with the first one of which it is, which is younger.
    for (let [oldest] = this.#batches.keys({ limit: 1 }); ids.length === 0; ) {
      if (oldest === undefined) return false;
      const stored = this.#batches.get(oldest);
      for (const version of stored ? versionsIn(oldest, stored) : []) {
        if (typeof version !== 'string') continue;
        const { acceptedAtMs, serverMessageId } = recordOf(version);
        if (acceptedAtMs >= beforeMs) return false;
        ids.push(serverMessageId);
      }
      expired.push(oldest);
      [oldest] = this.#batches.keys({ start: oldest + 1, limit: 1 });
    }
    const last = expired.at(-1) as number;
    if (last > this.#indexed) await this.#merge();
    if (last > this.#indexed) return false;
    await this.#environment.write(() => {
      for (const batch of expired) this.#batches.remove(batch);
      for (const id of ids) {
        const key = keyOf(id);
        const place = this.#index.get(key);
        if (place instanceof Buffer && batchOf(decodePlace(place)) <= last) this.#index.remove(key);
      }
    });
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#environment.settled();
  }

  /** The index covers batches up to this one. Where that is damaged it is as if there were no index: all batches are read again. */
  get #indexed(): number {
    return numberIn(this.#meta.get(META_INDEXED)) ?? 0;
  }

  /** Notes that a damaged version may be the only one of a record: its repeat must not be taken for a new message. */
  #suspect(ids: readonly string[], place: Place): void {
    for (const id of ids) if (this.#placeOf(id) === undefined) this.#recent.set(id, place);
    this.#absent.clear();
  }

  /** Resolves when the version at a place is durable: it may be on its way on behalf of somebody else. */
  #written(place: Place): Promise<void> {
    return this.#unwritten.get(batchOf(place))?.done ?? DONE;
  }

  #recentPlaceOf(id: string): Place | undefined {
    return this.#recent.get(id) ?? (this.#mergeRuns ? this.#merging.get(id) : undefined);
  }

  /** Where the newest version of a record is. */
  #placeOf(id: string): Place | undefined {
    const recent = this.#recentPlaceOf(id);
    if (recent !== undefined) return recent;
    if (this.#absent.get(id) !== undefined) return undefined;
    const place = this.#index.get(keyOf(id));
    if (place) return place instanceof DamagedRow ? UNKNOWN : decodePlace(place);
    if (this.#absent.size >= REMEMBERED_ABSENT) this.#absent.clear();
    this.#absent.set(id, 0);
    return undefined;
  }

  /** The row at a place; undefined when it has expired. */
  #rowAt(place: Place): Row | typeof DAMAGED | undefined {
    if (place === UNKNOWN) return DAMAGED;
    const batch = batchOf(place);
    const index = place % MAX_ROWS;
    const row = this.#unwritten.get(batch)?.rows[index] ?? this.#atHand.row(batch, index);
    if (row !== undefined) return row;
    const stored = this.#batches.get(batch);
    if (stored === undefined) return this.#expired(batch) ? undefined : DAMAGED;
    if (stored instanceof DamagedRow) {
      const version = versionsIn(batch, stored)[index];
      return typeof version === 'string' ? version : DAMAGED;
    }
    const text = textOf(stored);
    this.#atHand.put(batch, text);
    return text.split('\n')[index];
  }

  /** Of a batch that is not there: the oldest ones expire; among the others none is missing that somebody points to. */
  #expired(batch: number): boolean {
    const [oldest] = this.#batches.keys({ limit: 1 });
    return oldest === undefined || batch < oldest;
  }

  #put(id: string, row: Row): Promise<void> {
    let batch = this.#open;
    if (!batch || batch.rows.length === ROWS_PER_BATCH) {
      const opened: Batch = {
        number: this.#nextBatch++,
        rows: [],
        text: '',
        replaced: [],
        removed: [],
        done: DONE,
      };
      opened.done = this.#environment
        .write(() => this.#store(opened))
        .then(
          () => this.#stored(opened),
          (error) => this.#refused(opened, error),
        );
      opened.done.catch(() => {});
      this.#unwritten.set(opened.number, opened);
      this.#open = batch = opened;
    }
    this.#absent.delete(id);
    this.#damaged.delete(id);
    batch.replaced.push(this.#recentPlaceOf(id) ?? NOWHERE);
    this.#recent.set(id, batch.number * MAX_ROWS + batch.rows.length);
    batch.rows.push(row);
    if (this.#recent.size >= MERGE_AT) void this.#merge();
    return batch.done;
  }

  #store(batch: Batch): void {
    if (this.#open === batch) this.#open = undefined;
    batch.text = batch.rows.join('\n');
    this.#batches.put(batch.number, rowOfBatch(batch.number, batch.rows, batch.text));
    // What is dead goes with what is new: a group commit of its own would cost as much as one that carries something.
    for (const number of this.#dead) this.#batches.remove(number);
    batch.removed = this.#dead;
    this.#dead = [];
  }

  /** The versions are durable: batches that hold only older ones can go. */
  #stored(batch: Batch): void {
    this.#unwritten.delete(batch.number);
    this.#atHand.put(batch.number, batch.text);
    this.#liveIn.set(batch.number, (this.#liveIn.get(batch.number) ?? 0) + batch.rows.length);
    for (const place of batch.replaced) {
      if (place === NOWHERE) continue;
      const replaced = batchOf(place);
      const live = this.#liveIn.get(replaced);
      if (live === undefined) continue;
      if (live > 1) this.#liveIn.set(replaced, live - 1);
      else {
        this.#liveIn.delete(replaced);
        this.#dead.push(replaced);
      }
    }
  }

  /** The versions did not reach the disk: memory must not claim them. */
  #refused(batch: Batch, error: unknown): never {
    if (this.#open === batch) this.#open = undefined;
    this.#unwritten.delete(batch.number);
    this.#dead.push(...batch.removed);
    const before = (place: Place): Place => {
      let earlier = place;
      while (earlier !== NOWHERE && batchOf(earlier) === batch.number)
        earlier = batch.replaced[earlier % MAX_ROWS] as Place;
      return earlier;
    };
    for (const places of [this.#recent, this.#merging]) {
      for (const row of batch.rows) {
        const id = idOf(row);
        const earlier = before(places.get(id) ?? NOWHERE);
        if (earlier !== NOWHERE) places.set(id, earlier);
        else places.delete(id);
      }
    }
    for (const { replaced } of this.#unwritten.values()) {
      for (const [i, place] of replaced.entries()) replaced[i] = before(place);
    }
    throw error;
  }

  /** Moves the places of the recent records into the index, in order of id, a step per group commit. */
  async #merge(): Promise<void> {
    if (this.#mergeRuns) return;
    this.#mergeRuns = true;
    const merging = this.#recent;
    this.#recent = this.#merging;
    this.#merging = merging;
    // What comes now goes into a batch that the index will not claim to cover.
    this.#open = undefined;
    const through = this.#nextBatch - 1;
    try {
      // Some hundred entries with each group commit, so that a merge never holds up an acceptance for long.
      for (const keys of merging.keysInOrder()) {
        await this.#environment.write(() => {
          for (const key of keys) {
            const place = merging.getKey(key);
            // Its first version may have been refused meanwhile.
            if (place !== undefined) this.#index.put(key, encodePlace(place));
          }
        });
      }
      await this.#environment.write(() => this.#meta.put(META_INDEXED, rowOfNumber(through)));
      for (const batch of this.#liveIn.keys()) if (batch <= through) this.#liveIn.delete(batch);
    } catch {
      // The disk refused: what was not indexed goes back to memory and is merged with the next ones.
      this.#recent.addMissing(merging);
    } finally {
      merging.clear();
      this.#mergeRuns = false;
    }
  }
}

function batchOf(place: Place): number {
  return Math.floor(place / MAX_ROWS);
}

function encodePlace(place: Place): Buffer {
  const bytes = newRow(8);
  bytes.writeUIntBE(batchOf(place), 0, 6);
  bytes.writeUInt16BE(place % MAX_ROWS, 6);
  return bytes;
}

function decodePlace(bytes: Buffer): Place {
  return bytes.readUIntBE(0, 6) * MAX_ROWS + bytes.readUInt16BE(6);
}

/** When all have resolved; a failure of any is the failure of the whole. */
function all(promises: ReadonlySet<Promise<void>>): Promise<void> {
  const [only = DONE] = promises;
  return promises.size > 1 ? Promise.all(promises).then(() => {}) : only;
}
