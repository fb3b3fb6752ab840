import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LmdbMessageLog, LmdbStatusStore } from '@chatmesh/chat';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { eventFor, newKeys } from '../contract/message-log-witness.js';
import { newRecord } from '../contract/status-store-model.js';

describe('what a publisher records', () => {
  let directory: string;
  let environment: LmdbEnvironment;
  let statuses: LmdbStatusStore;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'chatmesh-together-'));
    environment = LmdbEnvironment.open(directory);
    statuses = new LmdbStatusStore(environment);
  });
  afterEach(async () => {
    await environment[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  test('goes to the disk with its events, in one group commit, where both are in one environment', async () => {
    await using log = LmdbMessageLog.open(environment, 'log', { recordsTogether: true });
    for (let n = 1; n <= 5; n++) {
      let recorded: Promise<void> | undefined;
      const [key] = newKeys(1) as [string];
      await log.publish([eventFor(key)], ([position]) => {
        recorded = statuses.accept([newRecord(n, { serverMessageId: key, position: position as string })]);
      });
      await recorded;
      expect(environment.commits).toBe(n);
      expect((await statuses.get([key]))[0]).toMatchObject({ serverMessageId: key });
    }
  });

  test('is written after its events are durable, where the store is another one', async () => {
    await using log = LmdbMessageLog.open(environment, 'log');
    let commitsBefore: number | undefined;
    await log.publish([eventFor(newKeys(1)[0] as string)], () => {
      commitsBefore = environment.commits;
    });
    expect(commitsBefore).toBe(1);
  });
});
