import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve as resolvePath } from 'node:path';
import { MeshError } from './errors.js';

const PREFIX = 'lock-';

/** A directory that is held until it is released or the process ends, however it ends. */
export interface DirectoryLock {
  /** Idempotent. */
  release(): Promise<void>;
}

/**
 * Takes a data directory for one holder. The lock is a socket `lock-PID-N` in the directory on which the holder listens:
 * the kernel knows whether somebody does, so that a killed holder blocks nobody and a used again process id is no matter.
 *
 * Each contender shows its own lock first and looks at the others' afterwards: of two at once at least one sees the other.
 *
 * @throws MeshError `failed_precondition` naming the lock of the holder, or the directory that cannot be written.
 */
export async function acquireLock(directory: string): Promise<DirectoryLock> {
  // biome-ignore lint/style/noRestrictedGlobals: a lock names the process that holds it, whoever calls.
  const name = `${PREFIX}${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
  const address = shortAddress(directory);
  const path = join(directory, name);
  try {
    const server = await show(address.path, name).catch((cause) => {
      throw new MeshError(
        'failed_precondition',
        `the data directory ${directory} cannot be locked: ${(cause as Error).message}`,
        { cause },
      );
    });
    let released: Promise<void> | undefined;
    const release = () => {
      released ??= new Promise<void>((resolve) => {
        rmSync(path, { force: true });
        server.close(() => resolve());
      });
      return released;
    };
    for (const other of readdirSync(directory).filter((file) => file.startsWith(PREFIX) && file !== name)) {
      if (await answers(join(address.path, other))) {
        await release();
        throw new MeshError(
          'failed_precondition',
          `${join(directory, other)} is held by process ${Number.parseInt(other.slice(PREFIX.length), 10)}: a data directory serves one process; stop that one, or set DATA_DIR to another directory`,
        );
      }
      rmSync(join(directory, other), { force: true });
    }
    return { release };
  } finally {
    address.remove();
  }
}

/** Listens under a name that nobody looks at, and takes the real one only then: a lock that is seen also answers. */
async function show(directory: string, name: string): Promise<Server> {
  const draft = join(directory, `new-${name}`);
  const server = createServer((socket) => socket.destroy()).unref();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(draft, resolve);
  });
  renameSync(draft, join(directory, name));
  return server;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Refused: nobody listens. Not found: it was released meanwhile. Anything else is no proof that the holder is gone.
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT'));
  });
}

/** The address of a socket has room for some hundred bytes, a path for more: a link in the temporary directory is short. */
function shortAddress(directory: string): { path: string; remove(): void } {
  try {
    mkdirSync(directory, { recursive: true });
    const temporary = mkdtempSync(join(tmpdir(), 'mesh-'));
    const path = join(temporary, 'd');
    symlinkSync(resolvePath(directory), path, 'dir');
    return { path, remove: () => rmSync(temporary, { recursive: true, force: true }) };
  } catch (cause) {
    throw new MeshError(
      'failed_precondition',
      `the data directory ${directory} cannot be made: ${(cause as Error).message}`,
      { cause },
    );
  }
}
