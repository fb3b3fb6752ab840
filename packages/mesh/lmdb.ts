import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { open, type RootDatabase, type RootDatabaseOptionsWithPath } from 'lmdb';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { findDamage } from './lmdb-check.js';
import { Access, closingError, Table } from './lmdb-table.js';
import { Metrics } from './observe.js';

export type { Range, Table } from './lmdb-table.js';

const DATA_FILE = 'data.mdb';
/** Written beside the data file when a store is created: its presence means that the data file must be there too. */
const MARKER_FILE = 'FORMAT';
const FORMAT = 'chatmesh lmdb 1\n';
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
  readonly #access = new Access();
  #closing: Promise<void> | undefined;
  #queued: Group | undefined;
  #committing: Promise<void> | undefined;
  #failure: MeshError | undefined;
  #commits = 0;

  private constructor(root: RootDatabase<Buffer, Buffer>, directory: string, metrics: Metrics) {
    this.#root = root;
    this.#directory = directory;
    this.#groups = engineOperation(metrics, 'lmdb', 'commit');
  }

  /**
   * Opens or creates the environment in `directory`.
   *
   * @throws MeshError `failed_precondition` naming the file when it is damaged, cut short, or gone although the
   * store existed; nothing is ever reset. `unavailable` when there is no room to create it. What is told from a sound file: see {@link findDamage}.
   */
  static open(directory: string, metrics = new Metrics({ processMetrics: false })): LmdbEnvironment {
    const file = join(directory, DATA_FILE);
    const marker = join(directory, MARKER_FILE);
    const damaged = (why: string, cause?: unknown) =>
      new MeshError(
        'failed_precondition',
        `the data file ${file} ${why}; restore it from a backup, or move it away to start empty`,
        { cause },
      );
    try {
      mkdirSync(directory, { recursive: true });
    } catch (cause) {
      throw new MeshError(
        'failed_precondition',
        `the data directory ${directory} cannot be created: ${(cause as Error).message}`,
        { cause },
      );
    }
    const marked = existsSync(marker);
    if (marked && readFileSync(marker, 'utf8') !== FORMAT)
      throw damaged(`has another format than this version reads (see ${marker})`);
    const empty = !existsSync(file) || statSync(file).size === 0;
    if (marked && empty) throw damaged('is missing or empty although the store existed');
    const full = empty && fullDisk(directory);
    if (full) throw new MeshError('unavailable', `cannot create ${file}: ${full}`);
    let root: RootDatabase<Buffer, Buffer>;
    try {
      const damage = empty ? undefined : findDamage(file);
      if (damage) throw damaged(damage);
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
      writeFileSync(marker, FORMAT);
      flushDirectory(directory);
    }
    return new LmdbEnvironment(root, directory, metrics);
  }

  /** A table with binary keys and values, in key order. */
  table(name: string): Table<Buffer, Buffer> {
    const options = { name, encoding: 'binary', keyEncoding: 'binary' } as const;
    return new Table<Buffer, Buffer>(this.#root.openDB<Buffer, Buffer>(options), this.#access);
  }

  /**
   * A table with keys of Latin-1 text and binary values, in the order of the keys' bytes. Text is written into lmdb's own
   * buffer, and values are copied into Node's pool: a buffer of its own for each key and value costs three times as much.
   */
  textTable(name: string): Table<string, Buffer> {
    const options = { name, keyEncoder: LATIN1_KEYS, encoder: POOLED_VALUES };
    return new Table<string, Buffer>(this.#root.openDB<Buffer, string>(options), this.#access);
  }

  /** A table with numeric keys and values of plain data, in key order. */
  sequence<V>(name: string): Table<number, V> {
    return new Table<number, V>(this.#root.openDB<V, number>({ name, encoding: 'msgpack' }), this.#access);
  }

  /** How many groups have been committed and flushed; for metrics and for the test that counts flushes. */
  get commits(): number {
    return this.#commits;
  }

  /** The last commit's failure, or undefined when it succeeded. */
  get failure(): MeshError | undefined {
    return this.#failure;
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

const LATIN1_KEYS = {
  writeKey: (key: string, target: Buffer, start: number) => start + target.write(key, start, 'latin1'),
  readKey: (target: Buffer, start: number, end: number) => target.toString('latin1', start, end),
};

const POOLED_VALUES = {
  encode: (value: Uint8Array) => value,
  decode: (bytes: Buffer, end: number) => Buffer.from(bytes.subarray(0, end)),
};

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

/** Makes the names of new files in a directory durable. */
function flushDirectory(directory: string): void {
  const descriptor = openSync(directory, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
