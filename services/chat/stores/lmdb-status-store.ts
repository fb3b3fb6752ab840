import type { Database, LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import type { StatusRecord, StatusStore, StatusUpdate } from './status-store.js';

/**
 * So many of the latest records are kept in memory, some 600 bytes each, before their places are merged into the index:
 * a merge writes most pages of an index of a million records, so that twice as many records cost half as much each.
 */
const MERGE_AT = 65_536;
/** Index entries that one group commit takes, so that a merge never holds up an acceptance for long. */
const MERGE_STEP = 512;
const META_INDEXED = 0;
/** Ids that were looked up in vain are remembered, since what is looked up is accepted next. */
const REMEMBERED_ABSENT = 8192;
/** Batches kept decoded: a backlog that is drained asks for the records of one batch one after another. */
const DECODED_BATCHES = 64;

const DONE = Promise.resolve();

/** A record as it is stored: its fields in order, as text parted by tabs; no field holds a tab or a line break. */
type Row = string;

/** The newest version of a record and where it is. */
interface Placed {
  readonly record: StatusRecord;
  readonly batch: number;
  readonly index: number;
}

/** Versions that go out with one group commit, and what each replaces. */
interface Batch {
  readonly number: number;
  readonly rows: Row[];
  readonly replaced: (Placed | undefined)[];
  done: Promise<void>;
}

/**
 * Status records in batches in the order of time, and an index from id to place.
 *
 * Ids are hashes, so a table in their order would touch a page of its own for each write, and the more so the more it
 * holds. Here every group commit writes one batch at the end of a sequence; the newest version of the latest records is
 * kept in memory (and rebuilt at start from the batches that the index does not cover), and places go into the index
 * many at a time, in order. A batch of which every record has a newer version is deleted.
 */
export class LmdbStatusStore implements StatusStore {
  readonly #environment: LmdbEnvironment;
  /** The rows of one group commit, parted by line breaks. */
  readonly #batches: Database<string, number>;
  readonly #index: Database<Buffer, Buffer>;
  readonly #meta: Database<number, number>;
  /** Newest versions that the index does not know yet. */
  #recent = new Map<string, Placed>();
  /** Those that are being merged into the index. */
  #merging = new Map<string, Placed>();
  /** Records of a batch that have no newer version; batches that were there at start are not counted. */
  readonly #liveIn = new Map<number, number>();
  /** Ids that the index does not know. */
  readonly #absent = new Set<string>();
  #nextBatch: number;
  #open: Batch | undefined;
  /** Batches on their way to the disk, by number. */
  readonly #unwritten = new Map<number, Batch>();
  readonly #decoded = new Map<number, Row[]>();

  constructor(environment: LmdbEnvironment) {
    this.#environment = environment;
    this.#batches = environment.sequence<string>('status.batches');
    this.#index = environment.table('status.index');
    this.#meta = environment.sequence<number>('status.meta');
    const indexed = this.#meta.get(META_INDEXED) ?? 0;
    let last = indexed;
    for (const { key: batch, value } of this.#batches.getRange({ start: indexed + 1 })) {
      for (const [index, row] of value.split('\n').entries()) {
        this.#recent.set(idOf(row), { record: recordOf(row), batch, index });
      }
      last = batch;
    }
    this.#nextBatch = last + 1;
  }

  accept(records: readonly StatusRecord[]): Promise<void> {
    const written = new Set<Promise<void>>();
    for (const record of records) {
      written.add(this.#find(record.serverMessageId) ? this.#written(record.serverMessageId) : this.#put(record));
    }
    return all(written);
  }

  async get(serverMessageIds: readonly string[]): Promise<(StatusRecord | undefined)[]> {
    return serverMessageIds.map((id) => this.#find(id));
  }

  update(updates: readonly StatusUpdate[]): Promise<void> {
    const written = new Set<Promise<void>>();
    for (const update of updates) {
      const found = this.#find(update.serverMessageId);
      const record = found ?? update.base;
      if (!record) continue;
      const merged = merge(record, update);
      written.add(merged === found ? this.#written(update.serverMessageId) : this.#put(merged));
    }
    return all(written);
  }

  async expire(beforeMs: number): Promise<boolean> {
    const [oldest] = [...this.#batches.getRange({ limit: 1 })];
    const records = oldest?.value.split('\n').map(recordOf) ?? [];
    if (!oldest || records.some((record) => record.acceptedAtMs >= beforeMs)) return false;
    const indexed = () => this.#meta.get(META_INDEXED) ?? 0;
    if (oldest.key > indexed()) await this.#merge();
    if (oldest.key > indexed()) return false;
    await this.#environment.write(() => {
      void this.#batches.remove(oldest.key);
      for (const { serverMessageId } of records) {
        const place = this.#index.get(keyOf(serverMessageId));
        if (place && place.readUIntBE(0, 6) === oldest.key) void this.#index.remove(keyOf(serverMessageId));
      }
    });
    return true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#environment.settled();
  }

  #latest(id: string): Placed | undefined {
    return this.#recent.get(id) ?? this.#merging.get(id);
  }

  /** Resolves when the newest version of a record is durable: it may be on its way on behalf of somebody else. */
  #written(id: string): Promise<void> {
    const placed = this.#latest(id);
    return (placed && this.#unwritten.get(placed.batch)?.done) ?? DONE;
  }

  #find(id: string): StatusRecord | undefined {
    const placed = this.#latest(id);
    if (placed) return placed.record;
    if (this.#absent.has(id)) return undefined;
    const place = this.#index.get(keyOf(id));
    if (!place) {
      if (this.#absent.size >= REMEMBERED_ABSENT) this.#absent.clear();
      this.#absent.add(id);
      return undefined;
    }
    const row = this.#rowsOf(place.readUIntBE(0, 6))?.[place.readUInt16BE(6)];
    return row === undefined ? undefined : recordOf(row);
  }

  #rowsOf(batch: number): Row[] | undefined {
    const cached = this.#decoded.get(batch);
    if (cached) return cached;
    const rows = this.#batches.get(batch)?.split('\n');
    if (!rows) return undefined;
    if (this.#decoded.size >= DECODED_BATCHES) this.#decoded.delete(this.#decoded.keys().next().value as number);
    this.#decoded.set(batch, rows);
    return rows;
  }

  #put(record: StatusRecord): Promise<void> {
    let batch = this.#open;
    // A place has 16 bits for the index in its batch.
    if (!batch || batch.rows.length === 0xffff) {
      const opened: Batch = { number: this.#nextBatch++, rows: [], replaced: [], done: Promise.resolve() };
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
    const id = record.serverMessageId;
    this.#absent.delete(id);
    batch.replaced.push(this.#latest(id));
    this.#recent.set(id, { record, batch: batch.number, index: batch.rows.length });
    batch.rows.push(rowOf(record));
    if (this.#recent.size >= MERGE_AT) void this.#merge();
    return batch.done;
  }

  #store(batch: Batch): void {
    if (this.#open === batch) this.#open = undefined;
    void this.#batches.put(batch.number, batch.rows.join('\n'));
  }

  /** The versions are durable: batches that hold only older ones can go. */
  #stored(batch: Batch): void {
    this.#unwritten.delete(batch.number);
    this.#liveIn.set(batch.number, (this.#liveIn.get(batch.number) ?? 0) + batch.rows.length);
    const dead: number[] = [];
    for (const replaced of batch.replaced) {
      if (!replaced) continue;
      const live = this.#liveIn.get(replaced.batch);
      if (live === undefined) continue;
      if (live > 1) this.#liveIn.set(replaced.batch, live - 1);
      else {
        this.#liveIn.delete(replaced.batch);
        dead.push(replaced.batch);
      }
    }
    if (dead.length === 0) return;
    void this.#environment.write(() => {
      for (const number of dead) void this.#batches.remove(number);
    });
  }

  /** The versions did not reach the disk: memory must not claim them. */
  #refused(batch: Batch, error: unknown): never {
    if (this.#open === batch) this.#open = undefined;
    this.#unwritten.delete(batch.number);
    const before = (placed: Placed | undefined) => {
      let earlier = placed;
      while (earlier?.batch === batch.number) earlier = batch.replaced[earlier.index];
      return earlier;
    };
    for (const versions of [this.#recent, this.#merging]) {
      for (const row of batch.rows) {
        const id = idOf(row);
        const earlier = before(versions.get(id));
        if (earlier) versions.set(id, earlier);
        else versions.delete(id);
      }
    }
    for (const { replaced } of this.#unwritten.values()) {
      for (const [i, placed] of replaced.entries()) replaced[i] = before(placed);
    }
    throw error;
  }

  /** Moves the places of the recent records into the index, in order of id, a step per group commit. */
  async #merge(): Promise<void> {
    if (this.#merging.size > 0) return;
    this.#merging = this.#recent;
    this.#recent = new Map();
    // What comes now goes into a batch that the index will not claim to cover.
    this.#open = undefined;
    const through = this.#nextBatch - 1;
    try {
      for (const ids of inOrder(this.#merging.keys(), MERGE_STEP)) {
        await this.#environment.write(() => {
          for (const id of ids) {
            const placed = this.#merging.get(id);
            // Its first version was refused meanwhile.
            if (!placed) continue;
            const { batch, index } = placed;
            const place = Buffer.allocUnsafe(8);
            place.writeUIntBE(batch, 0, 6);
            place.writeUInt16BE(index, 6);
            void this.#index.put(keyOf(id), place);
          }
        });
      }
      await this.#environment.write(() => void this.#meta.put(META_INDEXED, through));
      for (const batch of this.#liveIn.keys()) if (batch <= through) this.#liveIn.delete(batch);
      this.#merging = new Map();
    } catch {
      // The disk refused: what was not indexed goes back to memory and is merged with the next ones.
      for (const [id, placed] of this.#merging) if (!this.#recent.has(id)) this.#recent.set(id, placed);
      this.#merging = new Map();
    }
  }
}

function merge(record: StatusRecord, update: StatusUpdate): StatusRecord {
  const deliveredAtMs = earliest(record.deliveredAtMs, update.deliveredAtMs);
  const readAtMs = earliest(record.readAtMs, update.readAtMs);
  const failedAtMs = earliest(record.failedAtMs, update.failedAtMs);
  const { deviceId } = update;
  const devices =
    deviceId === undefined || record.devices.includes(deviceId) ? record.devices : [...record.devices, deviceId];
  const unchanged =
    deliveredAtMs === record.deliveredAtMs &&
    readAtMs === record.readAtMs &&
    failedAtMs === record.failedAtMs &&
    devices === record.devices;
  if (unchanged) return record;
  const code = failedAtMs === record.failedAtMs ? record.code : update.code;
  return { ...record, deliveredAtMs, readAtMs, failedAtMs, code, devices };
}

/** Of two times of which 0 says nothing. */
function earliest(a: number, b: number): number {
  return a === 0 || (b !== 0 && b < a) ? b : a;
}

/** When all have resolved; a failure of any is the failure of the whole. */
function all(promises: ReadonlySet<Promise<void>>): Promise<void> {
  const [only = DONE] = promises;
  return promises.size > 1 ? Promise.all(promises).then(() => {}) : only;
}

function rowOf(r: StatusRecord): Row {
  const head = `${r.serverMessageId}\t${r.clientMessageId}\t${r.senderId}\t${r.recipientId}\t${r.acceptedAtMs}\t${r.position}`;
  return `${head}\t${r.fingerprint}\t${r.deliveredAtMs}\t${r.readAtMs}\t${r.failedAtMs}\t${r.code}\t${r.devices.join(',')}`;
}

/** The id at the head of a row, without the rest. */
function idOf(row: Row): string {
  return row.slice(0, row.indexOf('\t'));
}

function recordOf(row: Row): StatusRecord {
  const fields = row.split('\t');
  const field = (index: number) => fields[index] as string;
  return {
    serverMessageId: field(0),
    clientMessageId: field(1),
    senderId: field(2),
    recipientId: field(3),
    acceptedAtMs: Number(field(4)),
    position: field(5),
    fingerprint: field(6),
    deliveredAtMs: Number(field(7)),
    readAtMs: Number(field(8)),
    failedAtMs: Number(field(9)),
    code: field(10),
    devices: field(11) === '' ? [] : field(11).split(','),
  };
}

/** UUIDs in order, `atLeast` at a time; sorted as they are asked for, so that no caller waits for all of it. */
function* inOrder(ids: Iterable<string>, atLeast: number): Generator<string[]> {
  const byFirstByte: string[][] = Array.from({ length: 256 }, () => []);
  for (const id of ids) byFirstByte[Number.parseInt(id.slice(0, 2), 16)]?.push(id);
  let step: string[] = [];
  for (const some of byFirstByte) {
    step.push(...some.sort());
    if (step.length < atLeast) continue;
    yield step;
    step = [];
  }
  if (step.length > 0) yield step;
}

/** A UUID as its 16 bytes. */
function keyOf(id: string): Buffer {
  return Buffer.from(id.replaceAll('-', ''), 'hex');
}
