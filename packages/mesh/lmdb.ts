import { existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { open, type RootDatabase, type RootDatabaseOptionsWithPath } from 'lmdb';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { findDamage } from './lmdb-check.js';
import { leaveMark, takeMark } from './lmdb-clean.js';
import { DamageLog } from './lmdb-damage-log.js';
import { storedName } from './lmdb-row.js';
import {
  Access,
  BYTE_KEYS,
  closingError,
  type KeyCodec,
  NUMBER_KEYS,
  type Rows,
  Table,
  TEXT_KEYS,
  textOfStored,
} from './lmdb-table.js';
import { type Logger, Metrics } from './observe.js';
import { flush, makeDirectory, writeOnce } from './one-time-file.js';

export { bytesOf, countOf, DamagedPart, partsOf, rowOfParts, sideBySide } from './lmdb-parts.js';
export { DamagedRow, newRow, numberIn, type Range, rowOfBytes, rowOfNumber, type Table } from './lmdb-table.js';

const DATA_FILE = 'data.mdb';
/** Written beside the data file when a store is created: its presence means that the data file must be there too. */
const MARKER_FILE = 'FORMAT';
const FORMAT = 'chatmesh lmdb 2\n';
const ANY_FORMAT = /^chatmesh lmdb \d+\n$/;
/**
 * With less free space nothing is written. LMDB 0.9.90 must not meet the end of the disk: when a page cannot be written at
 * all, its error message (mdb_page_flush) may overrun the 100 bytes made for it and damage the process's memory. It is
 * also what an operator needs to start the process again.
 */
const RESERVE_BYTES = 16 * 1024 * 1024;
const NO_KEY = Buffer.from([0xff]);

/**
 * One LMDB environment with group commit: everything handed to {@link write} while a flush is on its way to the disk
 * goes out in one transaction with the next flush.
 *
 * `write` resolves only when the data is on the disk. One group costs two flushes, whatever it holds: of its pages, and then
 * of the page that makes them the newest snapshot.
 */
export class LmdbEnvironment implements AsyncDisposable {
  readonly #root: RootDatabase<Buffer, Buffer>;
  readonly #directory: string;
  readonly #groups: EngineOperation;
  readonly #damages: DamageLog;
  readonly #logger: Logger | undefined;
  readonly #access = new Access();
  #closing: Promise<void> | undefined;
  #queued: Group | undefined;
  #committing: Promise<void> | undefined;
  #failure: MeshError | undefined;
  /** Whether a commit has ever failed: what the disk has then is for the next start to find out. */
  #failed = false;
  #commits = 0;

  private constructor(
    root: RootDatabase<Buffer, Buffer>,
    directory: string,
    metrics: Metrics,
    damages: DamageLog,
    logger?: Logger,
  ) {
    this.#root = root;
    this.#directory = directory;
    this.#damages = damages;
    this.#logger = logger;
    this.#groups = engineOperation(metrics, 'lmdb', 'commit');
  }

  /**
   * Opens or creates the environment in `directory`.
   *
   * @throws MeshError `failed_precondition` naming the file when it is damaged, cut short, or gone although the
   * store existed; nothing is ever reset. `unavailable` when there is no room to create it. What is told from a sound file: see {@link findDamage}.
   * A file that was closed in order and has not been touched since is not looked through again.
   */
  static open(directory: string, { metrics = unheard(), logger }: OpenOptions = {}): LmdbEnvironment {
    const file = join(directory, DATA_FILE);
    const marker = join(directory, MARKER_FILE);
    const damaged = (why: string, cause?: unknown) =>
      new MeshError(
        'failed_precondition',
        `the data file ${file} ${why}; restore it from a backup, or move the directory ${directory} away to start empty`,
        { cause },
      );
    makeDirectory(directory);
    const marked = existsSync(marker);
    const empty = !existsSync(file) || statSync(file).size === 0;
    if (marked && empty) throw damaged('is missing or empty although the store existed');
    if (marked) checkFormat(marker, file);
    const full = empty && fullDisk(directory);
    if (full) throw new MeshError('unavailable', `cannot create ${file}: ${full}`);
    const damages = new DamageLog(file, metrics, logger);
    let root: RootDatabase<Buffer, Buffer>;
    try {
      if (!empty && !takeMark(directory, file)) {
        const { damage, rows, damagedRows } = findDamage(file);
        if (damage) throw damaged(damage);
        for (const { table, key, page } of rows) damages.tell(table, textOfStored(key), page);
        if (damagedRows > rows.length)
          logger?.error({ file, damagedRows }, 'more stored rows are damaged than are named here');
      }
      root = open<Buffer, Buffer>({
        path: directory,
        noSubdir: false,
        maxDbs: 16,
        encoding: 'binary',
        keyEncoding: 'binary',
        // A commit flushes before it becomes visible, and one that fails to leaves no trace. (lmdb's default makes it visible
        // first: after a failed flush later commits would build on pages that never reached the disk.)
        overlappingSync: false,
        // Groups are made here; lmdb's own would leave promises that nobody waits for when a commit fails.
        eventTurnBatching: false,
        // See {@link LmdbEnvironment.#startNow}.
        txnStartThreshold: 1,
      } as RootDatabaseOptionsWithPath);
    } catch (cause) {
      if (cause instanceof MeshError) throw cause;
      throw damaged(`cannot be read (${(cause as Error).message})`, cause);
    }
    if (!marked) {
      // The marker is written before the first table is made.
      if ([...root.getKeys({ limit: 1 })].length > 0) {
        void root.close();
        throw noFormat(marker, 'is missing', file);
      }
      flush(file);
      writeOnce(marker, FORMAT);
    }
    return new LmdbEnvironment(root, directory, metrics, damages, logger);
  }

  /** Whether an environment was made in a directory, whatever has become of it. */
  static existsIn(directory: string): boolean {
    return [DATA_FILE, MARKER_FILE].some((name) => existsSync(join(directory, name)));
  }

  /** A table whose keys are bytes, in their order. */
  table(name: string): Table<Buffer> {
    return this.#table(name, BYTE_KEYS);
  }

  /** A table whose keys are ASCII text, in the order of its characters. */
  textTable(name: string): Table<string> {
    return this.#table(name, TEXT_KEYS);
  }

  /** A table whose keys are integers from 0 to 2^53, in their order. */
  sequence(name: string): Table<number> {
    return this.#table(name, NUMBER_KEYS);
  }

  /** How many groups have been committed and flushed; for metrics and for the test that counts flushes. */
  get commits(): number {
    return this.#commits;
  }

  /** The last commit's failure, or undefined when it succeeded. */
  get failure(): MeshError | undefined {
    return this.#failure;
  }

  /** True from the moment that closing begins: nothing more is written, and soon nothing is read. */
  get closing(): boolean {
    return this.#closing !== undefined;
  }

  /**
   * Runs `mutate`, which calls put and remove of this environment's tables, within the next group commit. Mutations
   * run in the order of the calls, on the caller's thread.
   *
   * @returns one promise per group: resolves when the group is on the disk.
   * @throws MeshError `unavailable` when the group could not be written, or the environment is closing. On a disk with less
   * than 16 MiB left it is refused before `mutate` is called.
   */
  write(mutate: () => void): Promise<void> {
    if (this.#closing) return refused(closingError());
    if (!this.#queued) {
      this.#queued = new Group();
      if (!this.#committing) this.#start();
    }
    this.#queued.mutations.push(mutate);
    return this.#queued.done;
  }

  /** Resolves when everything handed in so far is on the disk, or has failed. */
  async settled(): Promise<void> {
    while (this.#queued || this.#committing) await (this.#committing ?? this.#queued?.done.catch(() => {}));
  }

  /** Refuses new writes at once, finishes those that were handed in, then refuses reads and closes. Idempotent. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.settled();
    // In one turn: lmdb gives up the transaction of the reads at once, and only then waits for the thread that writes.
    this.#access.closed = true;
    await this.#root.close();
    if (this.#failed) return;
    try {
      leaveMark(this.#directory, join(this.#directory, DATA_FILE));
    } catch (error) {
      this.#logger?.warn({ err: error }, 'the next start looks through the whole data file');
    }
  }

  #table<K>(name: string, keys: KeyCodec<K>): Table<K> {
    const options = { name: storedName(name), keyEncoder: keys, encoder: POOLED_VALUES };
    const rows: unknown = this.#root.openDB(options);
    return new Table<K>(rows as Rows<K>, name, keys, this.#access, (key) => this.#damages.tell(name, key));
  }

  /**
   * lmdb wakes its writing thread in the next turn of the event loop, a millisecond later under load, or when more than
   * `txnStartThreshold` writes wait: so one more is added, of a key that nobody uses.
   */
  #startNow(): void {
    // It fails with the group, of which it is a part.
    (this.#root.remove(NO_KEY) as Promise<boolean>).catch(() => {});
  }

  #start(): void {
    this.#committing = new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#commit());
  }

  async #commit(): Promise<void> {
    const group = this.#queued;
    this.#queued = undefined;
    if (group) {
      const startedAtMs = performance.now();
      try {
        const full = fullDisk(this.#directory);
        if (full) throw new Error(full);
        const written = this.#root.batch(() => {
          for (const mutate of group.mutations) mutate();
        });
        this.#startNow();
        await written;
        this.#commits++;
        this.#failure = undefined;
        this.#groups.ended(startedAtMs, true);
        group.resolve();
      } catch (error) {
        this.#groups.ended(startedAtMs, false);
        this.#failed = true;
        const cause = await reasonOf(error);
        this.#failure = new MeshError(
          'unavailable',
          `cannot write to ${join(this.#directory, DATA_FILE)}: ${cause.message}`,
          { cause },
        );
        group.reject(this.#failure);
      }
    }
    this.#committing = undefined;
    if (this.#queued) this.#start();
  }
}

/** Values are copied into Node's pool: a buffer of its own for each one costs three times as much. */
const POOLED_VALUES = {
  encode: (value: Uint8Array) => value,
  decode: (bytes: Buffer, end: number) => Buffer.from(bytes.subarray(0, end)),
};

interface OpenOptions {
  readonly metrics?: Metrics;
  /** Is told of damaged rows. */
  readonly logger?: Logger;
}

class Group {
  readonly mutations: (() => void)[] = [];
  readonly done: Promise<void>;
  resolve!: () => void;
  reject!: (error: unknown) => void;

  constructor() {
    this.done = new Promise<void>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    // Whoever cares awaits `done`; a group of acknowledgements that nobody awaits must not end the process.
    this.done.catch(() => {});
  }
}

/** As a group that failed: nobody has to await it. */
function refused(error: MeshError): Promise<never> {
  const done = Promise.reject(error);
  done.catch(() => {});
  return done;
}

/** lmdb rejects writes with "commit failed" and tells the reason in a second promise, which must not go unhandled. */
async function reasonOf(error: unknown): Promise<Error> {
  const reason = (error as { commitError?: Promise<never> }).commitError;
  return reason ? reason.catch((cause: Error) => cause) : (error as Error);
}

/** Says so when the disk of a directory has no room but the reserve. File systems that do not count are not asked. */
function fullDisk(directory: string): string | undefined {
  const { blocks, bavail, bsize } = statfsSync(directory);
  if (blocks === 0 || bavail * bsize >= RESERVE_BYTES) return undefined;
  return `the disk is full (${Math.floor((bavail * bsize) / 1024)} KiB free, ${RESERVE_BYTES / 1024} KiB are kept in reserve)`;
}

/** Metrics that nobody reads. */
function unheard(): Metrics {
  return new Metrics({ processMetrics: false });
}

/** @throws MeshError `failed_precondition` unless the marker names the format that this version reads. */
function checkFormat(marker: string, file: string): void {
  const found = readFileSync(marker, 'utf8');
  if (found === FORMAT) return;
  if (!ANY_FORMAT.test(found)) throw noFormat(marker, found === '' ? 'is empty' : 'is damaged', file);
  throw new MeshError(
    'failed_precondition',
    `the data file ${file} has the format "${found.trim()}" (see ${marker}), and this version reads "${FORMAT.trim()}": start the version that wrote it`,
  );
}

/** Where the marker says nothing, nothing is said about the data either, which may be sound. */
function noFormat(marker: string, why: string, file: string): MeshError {
  return new MeshError(
    'failed_precondition',
    `the file ${marker} ${why}, and only it says which format ${file} has: leave the data file where it is, and restore the marker from a backup, or with: echo '${FORMAT.trim()}' > ${marker} (the format of this version)`,
  );
}
