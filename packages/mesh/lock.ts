import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve as resolvePath } from 'node:path';
import { MeshError } from './errors.js';
import { makeDirectory } from './one-time-file.js';

const LOCK = 'lock';
const DRAFT_PREFIX = `${LOCK}-`;
/** What the address of a socket has room for on Linux (108) and macOS (104), with its end. */
const MAX_ADDRESS_BYTES = 103;
/** Below the directory, with a process id of seven digits. */
const LONGEST_NAME = `/${DRAFT_PREFIX}1234567-abcdef/1234567-abcdef`;
/** What says that another process has come first. */
const OTHERS = ['ENOENT', 'ENOTEMPTY', 'EEXIST'];
const DESCRIPTORS = '/proc/self/fd';

/** A directory that is held until it is released or the process ends, however it ends. */
export interface DirectoryLock {
  /** Idempotent. */
  release(): Promise<void>;
}

/**
 * Makes a data directory where it is missing, and takes it for one holder: of several at once exactly one gets it.
 *
 * The lock is the directory `lock` in it, which holds one socket, `PID-RANDOM`, on which the holder listens. The kernel knows
 * whether somebody listens, so that a process that was killed holds nothing, one that is stopped still does, and a used
 * again process id is no matter. A contender prepares such a directory under another name and renames it to `lock`, which the
 * file system does only while there is none or an empty one. The socket of a holder that has ended is removed by its name,
 * and no other holder ever has the same.
 *
 * @throws MeshError `failed_precondition` naming the lock of the holder, or the directory that cannot be written.
 */
export async function acquireLock(directory: string): Promise<DirectoryLock> {
  makeDirectory(directory);
  const lock = join(directory, LOCK);
  const address = shortAddress(directory);
  try {
    for (;;) {
      const holder = await holderOf(lock, join(address.path, LOCK));
      if (holder !== undefined) {
        throw new MeshError(
          'failed_precondition',
          `${join(lock, holder)} is held by process ${Number.parseInt(holder, 10)}: a data directory serves one process; stop that one, or set DATA_DIR to another directory`,
        );
      }
      const taken = await take(directory, address.path);
      if (taken) return taken;
    }
  } catch (cause) {
    if (cause instanceof MeshError) throw cause;
    throw new MeshError(
      'failed_precondition',
      `the data directory ${directory} cannot be locked: ${(cause as Error).message}`,
      { cause },
    );
  } finally {
    address.remove();
  }
}

/** The name of the socket that somebody listens on; those of holders that have ended are removed. */
async function holderOf(lock: string, address: string): Promise<string | undefined> {
  for (const name of namesIn(lock)) {
    if (await answers(join(address, name))) return name;
    unless(['ENOENT'], () => unlinkSync(join(lock, name)));
  }
  return undefined;
}

/** The lock, or undefined when somebody else was quicker. */
async function take(directory: string, address: string): Promise<DirectoryLock | undefined> {
  // biome-ignore lint/style/noRestrictedGlobals: a lock names the process that holds it, whoever calls.
  const name = `${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
  const draft = `${DRAFT_PREFIX}${name}`;
  const lock = join(directory, LOCK);
  mkdirSync(join(directory, draft));
  let server: Server | undefined;
  try {
    server = await listenOn(join(address, draft, name));
    renameSync(join(directory, draft), lock);
    // Below, a holder may have removed what was not listened on yet.
    if (!existsSync(join(lock, name))) throw Object.assign(new Error('the draft is gone'), { code: 'ENOENT' });
  } catch (error) {
    server?.close();
    const tooLate = OTHERS.includes((error as NodeJS.ErrnoException).code ?? '') || !existsSync(join(directory, draft));
    rmSync(join(directory, draft), { recursive: true, force: true });
    if (tooLate) return undefined;
    throw error;
  }
  const held = server;
  await removeDrafts(directory, address);
  let released: Promise<void> | undefined;
  return {
    release() {
      released ??= new Promise<void>((resolve) => {
        rmSync(join(lock, name), { force: true });
        // Unless the next holder is there already.
        unless(OTHERS, () => rmdirSync(lock));
        held.close(() => resolve());
      });
      return released;
    },
  };
}

/** What processes have left that ended between making a draft and renaming it. */
async function removeDrafts(directory: string, address: string): Promise<void> {
  for (const draft of namesIn(directory).filter((file) => file.startsWith(DRAFT_PREFIX))) {
    if (!(await answers(join(address, draft, draft.slice(DRAFT_PREFIX.length)))))
      rmSync(join(directory, draft), { recursive: true, force: true });
  }
}

async function listenOn(address: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy()).unref();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address, resolve);
  });
  return server;
}

function answers(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Refused, or no socket: nobody listens. Not found: it was released meanwhile. Anything else is no proof that the holder is gone.
    const gone = ['ECONNREFUSED', 'ENOTSOCK', 'ENOENT'];
    socket.once('error', ({ code = '' }: NodeJS.ErrnoException) => resolve(!gone.includes(code)));
  });
}

function namesIn(directory: string): string[] {
  return unless(['ENOENT'], () => readdirSync(directory)) ?? [];
}

/** What `work` returns; undefined where it fails with one of these codes. */
function unless<T>(codes: readonly string[], work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (codes.includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

/**
 * The directory by a path that is short enough for the address of a socket in it: its own, that of an open descriptor, or
 * where the system has no such paths, a link in the temporary directory.
 */
function shortAddress(directory: string): { path: string; remove(): void } {
  if (Buffer.byteLength(directory + LONGEST_NAME) <= MAX_ADDRESS_BYTES) return { path: directory, remove() {} };
  if (existsSync(DESCRIPTORS)) {
    const descriptor = openSync(directory, 'r');
    return { path: join(DESCRIPTORS, String(descriptor)), remove: () => closeSync(descriptor) };
  }
  try {
    const temporary = mkdtempSync(join(tmpdir(), 'mesh-'));
    const path = join(temporary, 'd');
    symlinkSync(resolvePath(directory), path, 'dir');
    return { path, remove: () => rmSync(temporary, { recursive: true, force: true }) };
  } catch (cause) {
    throw new MeshError(
      'failed_precondition',
      `the path of the data directory ${directory} is too long for a lock, and TMPDIR cannot hold a link to it: set DATA_DIR to a shorter path, or TMPDIR to a directory that can be written (${(cause as Error).message})`,
      { cause },
    );
  }
}
