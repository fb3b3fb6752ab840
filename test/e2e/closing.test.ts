import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from '@jest/globals';

const PROGRAM = fileURLToPath(new URL('./closing-process.js', import.meta.url));

/** In a process of its own: what reads a store that has been closed may end it by a signal. */
test('a router that is closed while calls run answers or refuses each of them, loses nothing, and leaves nothing behind', async () => {
  const env = { ...process.env, MALLOC_PERTURB_: '165' };
  const { stdout } = await promisify(execFile)(process.execPath, ['--enable-source-maps', PROGRAM], { env });
  const { outcomes, accepted, lost, strays, longestMs } = JSON.parse(stdout);
  expect(strays).toEqual([]);
  // A call that comes too late is unavailable; a message that nobody sent is not found.
  expect(Object.keys(outcomes).sort()).toEqual(['answered', 'not_found', 'unavailable']);
  expect(accepted).toBeGreaterThan(0);
  expect(lost).toBe(0);
  expect(longestMs).toBeLessThan(15_000);
});
