import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LmdbEnvironment, newRow } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

/** What this process has read from files and the like so far (Linux). */
function bytesRead(): number {
  const [, count] = /^rchar: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8')) as unknown as [string, string];
  return Number(count);
}

describe('the walk through a data file', () => {
  let directory: string;
  let file: string;

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'chatmesh-clean-'));
    file = join(directory, 'data.mdb');
    await using environment = LmdbEnvironment.open(directory);
    const table = environment.sequence('table');
    for (let key = 0; key < 40; key++) await environment.write(() => table.put(key, newRow(100_000)));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  async function readAtStart(): Promise<number> {
    const before = bytesRead();
    const environment = LmdbEnvironment.open(directory);
    const read = bytesRead() - before;
    await environment[Symbol.asyncDispose]();
    return read;
  }

  test('is spared a start after a stop in order, and no other', async () => {
    const { size } = statSync(file);
    expect(await readAtStart()).toBeLessThan(size / 10);
    rmSync(join(directory, 'CLEAN'));
    expect(await readAtStart()).toBeGreaterThan(size / 2);
    expect(await readAtStart()).toBeLessThan(size / 10);
    // Whatever is done to the file leaves its mark in the inode.
    utimesSync(file, 0, 0);
    expect(await readAtStart()).toBeGreaterThan(size / 2);
  });
});
