import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LmdbEnvironment, newRow, rowOfBytes } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

/** What the flushes are, and when they happen, is watched in test/system/lmdb-flush.test.ts. */
describe('group commit', () => {
  let directory: string;
  let environment: LmdbEnvironment;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'chatmesh-commit-'));
    environment = LmdbEnvironment.open(directory);
  });
  afterEach(async () => {
    await environment[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  test('the writes of one turn are flushed once, not once each', async () => {
    const table = environment.sequence('events');
    for (let group = 1; group <= 5; group++) {
      const writes = Array.from({ length: 100 }, (_, i) =>
        environment.write(() => table.put(group * 1000 + i, rowOfBytes(Buffer.alloc(200)))),
      );
      await Promise.all(writes);
      expect(environment.commits).toBe(group);
    }
  });

  test('what comes while a flush is on its way goes out with the next one', async () => {
    const table = environment.sequence('events');
    let written = 0;
    const first = environment.write(() => table.put(written++, newRow(1)));
    const begun = new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    await begun;
    const later = Array.from({ length: 100 }, () => environment.write(() => table.put(written++, newRow(1))));
    await Promise.all([first, ...later]);
    expect(environment.commits).toBe(2);
    expect(written).toBe(101);
  });
});
