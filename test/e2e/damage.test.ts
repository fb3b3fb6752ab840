import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { newSeed } from '../contract/engine.js';
import { DamageRun } from '../damage-run.js';
import { DAMAGES } from '../damages.js';
import { randomFrom } from '../random.js';

/** Fifty of them are in test/system/damage.test.ts. */
describe('a data file under waiting messages', () => {
  let run: DamageRun;

  beforeAll(async () => {
    run = await DamageRun.prepare();
  });
  afterAll(() => run?.[Symbol.asyncDispose]());

  test('that is sound gives all of them, once, and answers their repeats', async () => {
    expect(await run.judge(undefined, Math.random)).toBe('whole');
  });

  test.each(Object.keys(DAMAGES))(
    'with %s is refused by its name, or is whole, or single rows are lost loudly',
    async (kind) => {
      await run.judge(kind, randomFrom(newSeed(kind)));
    },
  );
});
