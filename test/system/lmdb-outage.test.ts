import { describe, expect, test } from '@jest/globals';
import { runOnSmallDisk } from './lmdb-small-disk.js';

const run = (scenario: string) => runOnSmallDisk(new URL('./lmdb-outage-victim.js', import.meta.url).href, scenario);

describe('while the disk refuses writes', () => {
  test('the log refuses to publish; afterwards it goes on, and knows what was acknowledged meanwhile', async () => {
    expect(await run('log')).toEqual({
      refused: ['unavailable', 'unavailable'],
      accepted: 'done',
      writable: [false, true],
      seen: ['1', '2', '3', '4', '7'],
      again: ['2', '3', '7'],
    });
  });

  test('inboxes refuse rows; afterwards an inbox is listed with its week as if nothing had been', async () => {
    expect(await run('inbox')).toEqual({
      refused: 'unavailable',
      during: 0,
      accepted: 'done',
      after: 1,
      aged: [{ userId: 'a', deviceId: 'b' }],
    });
  });

  test('status records stay what they were, whoever waits for a write is told, and afterwards they go on', async () => {
    expect(await run('status')).toEqual({
      refused: ['unavailable', 'unavailable', 'unavailable', 'unavailable'],
      during: [0, 0, false],
      accepted: 'done',
      after: [30, 0, false],
    });
  });

  test('status records that found no room are forgotten, and so is what was built upon them on the way', async () => {
    expect(await run('large')).toEqual({
      before: 70_000,
      refused: ['unavailable', 'unavailable'],
      during: 0,
      accepted: 'done',
      after: [100, 100],
    });
  });

  test('no status record is lost that was accepted before, whenever it happens', async () => {
    expect(await run('merge')).toEqual({ refused: true, before: 0, after: 0, many: true });
  });
});
