import { expect, test } from '@jest/globals';
import { newSeed } from '../contract/engine.js';
import { DamageRun, type Verdict } from '../damage-run.js';
import { DAMAGES } from '../damages.js';
import { randomFrom } from '../random.js';

const EACH = 5;

test('fifty damages of a data file: each is refused by the name of the file, or costs nothing, or costs single rows, loudly', async () => {
  await using run = await DamageRun.prepare();
  const seed = newSeed('fifty damages');
  const verdicts: Record<Verdict, number> = { refused: 0, whole: 0, 'rows lost': 0 };
  const broken: string[] = [];
  for (const [n, kind] of Array.from({ length: EACH }, () => Object.keys(DAMAGES))
    .flat()
    .entries()) {
    try {
      verdicts[await run.judge(kind, randomFrom(seed + n))]++;
    } catch (error) {
      broken.push(`${kind} (seed ${seed + n}): ${(error as Error).message}`);
    }
  }
  console.info(JSON.stringify(verdicts));
  expect(broken).toEqual([]);
  expect(await run.judge(undefined, randomFrom(seed))).toBe('whole');
}, 600_000);
