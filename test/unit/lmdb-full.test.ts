import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import type { Answer, Puts } from './lmdb-process.js';

const MIB = 1024 * 1024;
const VALUE_BYTES = 100_000;

let root: string;
let child: ChildProcess | undefined;
let cleanUp: (() => void)[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'chatmesh-full-'));
  cleanUp = [() => rmSync(root, { recursive: true, force: true })];
});

afterEach(async () => {
  if (child && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  for (const step of cleanUp.reverse()) step();
});

async function start(directory: string): Promise<void> {
  const program = fileURLToPath(new URL('./lmdb-process.js', import.meta.url));
  child = fork(program, [directory], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  child.stderr?.resume();
  expect(await answer()).toEqual({});
}

async function answer(): Promise<Answer> {
  const [message] = (await once(child as ChildProcess, 'message')) as [Answer];
  return message;
}

async function put(keys: readonly string[]): Promise<Answer> {
  const answered = answer();
  (child as ChildProcess).send({ keys, bytes: VALUE_BYTES } satisfies Puts);
  return answered;
}

/** Two ways to run out of space: a limit on the size of files, which needs no rights, and a small file system. */
interface Disk {
  readonly directory: string;
  /** Called when the child runs. */
  fill(): void;
  makeRoom(): void;
}

function limitedDisk(): Disk {
  const limit = (bytes: number | 'unlimited') =>
    execFileSync('prlimit', [`--pid=${child?.pid}`, `--fsize=${bytes}:unlimited`]);
  return { directory: join(root, 'data'), fill: () => limit(8 * MIB), makeRoom: () => limit('unlimited') };
}

function smallDisk(): Disk {
  const mount = join(root, 'mount');
  mkdirSync(mount);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', mount]);
  cleanUp.push(() => execFileSync('umount', [mount]));
  const filler = join(mount, 'filler');
  return {
    directory: join(mount, 'data'),
    fill: () => writeFileSync(filler, Buffer.alloc(8 * MIB)),
    makeRoom: () => rmSync(filler),
  };
}

const disks: [string, () => Disk][] = [['a limit on the size of files', limitedDisk]];
// Only root may mount.
if (process.getuid?.() === 0) disks.push(['a file system of 16 MiB', smallDisk]);

describe.each(disks)('on a full disk (%s)', (_, open) => {
  test('writes are refused as unavailable by the name of the file, what was acknowledged stays, and it goes on when there is room', async () => {
    const disk = open();
    await start(disk.directory);
    disk.fill();

    const acknowledged: string[] = [];
    let refused: Answer | undefined;
    for (let n = 0; !refused && n < 200; n++) {
      const keys = [`${n}-a`, `${n}-b`];
      const outcome = await put(keys);
      if ('kind' in outcome || 'unhandled' in outcome) refused = outcome;
      else acknowledged.push(...keys);
    }
    expect(acknowledged.length).toBeGreaterThan(0);
    expect(refused).toMatchObject({
      kind: 'unavailable',
      message: expect.stringContaining(join(disk.directory, 'data.mdb')),
    });
    const tooMuch = Array.from({ length: 50 }, (_, n) => `again-${n}`);
    for (let n = 0; n < 5; n++) expect(await put(tooMuch)).toMatchObject({ kind: 'unavailable' });

    disk.makeRoom();
    for (let n = 0; n < 5; n++) {
      expect(await put([`room-${n}`])).toEqual({});
      acknowledged.push(`room-${n}`);
    }

    child?.kill('SIGKILL');
    await once(child as ChildProcess, 'exit');
    expect(child?.signalCode).toBe('SIGKILL');
    await using environment = LmdbEnvironment.open(disk.directory);
    const table = environment.table('table');
    for (const key of acknowledged) {
      expect(table.get(Buffer.from(key))?.equals(Buffer.alloc(VALUE_BYTES, key.at(-1) as string))).toBe(true);
    }
    expect(readFileSync(join(disk.directory, 'FORMAT'), 'utf8')).not.toBe('');
  });
});
