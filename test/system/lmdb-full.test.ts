import { beforeAll, describe, expect, test } from '@jest/globals';
import { runOnSmallDisk } from './lmdb-small-disk.js';

/** See lmdb-full-process.ts. */
interface Report {
  readonly groups: number;
  readonly refused: unknown;
  readonly again: unknown[];
  readonly failure: string;
  readonly after: unknown[];
  readonly large: unknown;
  readonly last: unknown;
  readonly recovered: boolean;
  readonly unhandled: number;
  readonly lost: string[];
  readonly untold: string[];
}

describe('on a full disk', () => {
  let report: Report;
  const unavailable = { kind: 'unavailable', message: expect.stringMatching(/cannot write to .*data\.mdb: /) };

  beforeAll(async () => {
    report = (await runOnSmallDisk(new URL('./lmdb-full-process.js', import.meta.url).href)) as Report;
  });

  test('writes are refused as unavailable, by the name of the file and with the reason', () => {
    expect(report.groups).toBeGreaterThan(20);
    expect(report.refused).toMatchObject(unavailable);
    expect(report.refused).toMatchObject({ message: expect.stringContaining('the disk is full') });
    expect(report.again).toMatchObject([unavailable, unavailable]);
    expect(report.failure).toContain('the disk is full');
  });

  test('writes succeed again when there is room', () => {
    expect(report.after).toEqual([null, null]);
    expect(report.recovered).toBe(true);
  });

  test('a group that needs more than there is fails as a whole, and the next ones succeed', () => {
    expect(report.large).toMatchObject(unavailable);
    expect(report.last ?? null).toBeNull();
  });

  test('nothing acknowledged is lost, nothing refused is there, and no rejection goes unhandled', () => {
    expect(report.lost).toEqual([]);
    expect(report.untold).toEqual([]);
    expect(report.unhandled).toBe(0);
  });
});
