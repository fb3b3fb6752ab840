import { execFile } from 'node:child_process';
import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const MIB = 1024 * 1024;
const DISK_MIB = 128;

/**
 * Runs a program with a file system of its own of 128 MiB, whose path is its first argument, and returns the JSON of the last
 * line that it wrote. The file system is gone with the program.
 *
 * @throws Error saying what is needed when there is no such file system to be had.
 */
export async function runOnSmallDisk(program: string, ...args: string[]): Promise<unknown> {
  const mount = await mkdtemp(join(tmpdir(), 'chatmesh-small-disk-'));
  const namespaces = process.getuid?.() === 0 ? '-m' : '-Urm';
  const script = `mount -t tmpfs -o size=${DISK_MIB}m tmpfs "$0" && exec "$@"`;
  try {
    const command = ['sh', '-c', script, mount, process.execPath, fileURLToPath(program), mount, ...args];
    const run = promisify(execFile)('unshare', [namespaces, ...command], { maxBuffer: 2 ** 26 });
    const { stdout } = await run.catch((error) => {
      if (error.code !== 'ENOENT' && !/^(unshare|mount): /m.test(error.stderr)) {
        throw new Error(`the program ended with ${error.signal ?? error.code}: ${error.stdout}${error.stderr}`);
      }
      throw new Error(
        `this test mounts a small disk: it needs Linux, unshare and mount (on Debian: apt-get install -y util-linux mount), and the right to use them, as root or in a user namespace (${error.stderr || error.message})`,
      );
    });
    return JSON.parse(stdout.trim().split('\n').at(-1) as string);
  } finally {
    await rm(mount, { recursive: true, force: true });
  }
}

/** In such a program: takes the room that is there, and gives it back. */
export class SmallDisk {
  readonly #filler: string;
  readonly directory: string;

  constructor(mount: string) {
    this.#filler = join(mount, 'filler');
    this.directory = join(mount, 'data');
  }

  /** Takes what is free but for `leftMib`. */
  fill(leftMib: number): void {
    this.makeRoom();
    const { bavail, bsize } = statfsSync(this.directory);
    writeFileSync(this.#filler, Buffer.alloc(Math.max(0, bavail * bsize - leftMib * MIB)));
  }

  makeRoom(): void {
    rmSync(this.#filler, { force: true });
  }
}
