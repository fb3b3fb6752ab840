import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { acquireLock } from '@chatmesh/mesh';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

const mesh = pathToFileURL(createRequire(import.meta.url).resolve('@chatmesh/mesh')).href;
/** Says "held" or why not, and stays until it is told otherwise. */
const program = `
  const { acquireLock } = await import(${JSON.stringify(mesh)});
  await acquireLock(process.argv[1]).then(() => console.log('held'), (error) => console.log(error.message));
  setInterval(() => {}, 1000);
`;

let directory: string;
let children: ChildProcess[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-lock-'));
  children = [];
});

afterEach(async () => {
  for (const child of children) await kill(child);
  rmSync(directory, { recursive: true, force: true });
});

async function start(): Promise<{ child: ChildProcess; said: string }> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const [said] = (await once(child.stdout, 'data')) as [Buffer];
  return { child, said: said.toString().trim() };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

describe('the lock of a directory', () => {
  test('a second process is refused with a sentence that names the lock file', async () => {
    const first = await start();
    expect(first.said).toBe('held');
    const second = await start();
    const [file] = readdirSync(directory).filter((name) => name.startsWith(`lock-${first.child.pid}-`));
    expect(file).toBeDefined();
    expect(second.said).toContain(join(directory, file as string));
  });

  test('a holder that was killed does not block the next one', async () => {
    const { child } = await start();
    await kill(child);
    expect(readdirSync(directory)).toHaveLength(1);
    const lock = await acquireLock(directory);
    expect(readdirSync(directory)).toHaveLength(1);
    await lock.release();
    expect(readdirSync(directory)).toEqual([]);
  });

  test('of several processes that start at once no two get it', async () => {
    const said = await Promise.all(Array.from({ length: 4 }, async () => (await start()).said));
    expect(said.filter((line) => line === 'held').length).toBeLessThanOrEqual(1);
  });

  test('the same process cannot take it twice, and can take it again after the release', async () => {
    const lock = await acquireLock(directory);
    await expect(acquireLock(directory)).rejects.toMatchObject({ kind: 'failed_precondition' });
    await lock.release();
    await lock.release();
    await (await acquireLock(directory)).release();
  });

  test('a path longer than the address of a socket is no obstacle', async () => {
    const deep = join(directory, 'd'.repeat(120));
    const lock = await acquireLock(deep);
    expect(readdirSync(deep)).toHaveLength(1);
    await lock.release();
  });

  test('a directory that cannot be made is reported by its name', async () => {
    const lock = await acquireLock(directory);
    const [file] = readdirSync(directory);
    await expect(acquireLock(join(directory, file as string, 'below'))).rejects.toThrow(directory);
    await lock.release();
  });
});
