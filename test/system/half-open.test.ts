import { expect, test } from '@jest/globals';
import { runWithNetwork } from './cut-network.js';

test('a stream over HTTP/1.1 whose client is cut off ends by what is not acknowledged, and no other does', async () => {
  const program = new URL('./half-open-program.js', import.meta.url).href;
  const { before, after, endedAfterMs } = (await runWithNetwork(program)) as {
    before: number[];
    after: number[];
    endedAfterMs: number;
  };
  expect(before).toEqual([1, 1, 1]);
  expect(after).toEqual([1, 1]);
  // The kernel by itself would take a quarter of an hour.
  expect(endedAfterMs).toBeLessThan(30_000);
}, 120_000);
