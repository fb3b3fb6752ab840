import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test } from '@jest/globals';

const PROGRAM = fileURLToPath(new URL('./lmdb-closing-process.js', import.meta.url));
const REFUSED = 'unavailable: the store is closing';

/** In a process of its own: a read of what lmdb has freed ends one by a signal, the sooner when freed memory is overwritten. */
describe('while an LMDB environment closes', () => {
  let said: { outcomes: Record<string, string[]>; strays: string[] };

  beforeAll(async () => {
    const env = { ...process.env, MALLOC_PERTURB_: '165' };
    const { stdout } = await promisify(execFile)(process.execPath, ['--enable-source-maps', PROGRAM], { env });
    said = JSON.parse(stdout);
  });

  test('every read and every write, at whatever moment, is done or refused as unavailable', () => {
    for (const [use, results] of Object.entries(said.outcomes)) {
      expect({ use, others: results.filter((result) => result !== 'done' && result !== REFUSED) }).toEqual({
        use,
        others: [],
      });
    }
  });

  test('both are met: the sweep begins before the close and ends after it', () => {
    const all = Object.values(said.outcomes).flat();
    expect(all).toContain('done');
    expect(all).toContain(REFUSED);
  });

  test('nothing is left behind that fails later, where nobody would catch it', () => {
    expect(said.strays).toEqual([]);
  });
});
