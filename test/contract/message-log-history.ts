import { setImmediate as turn } from 'node:timers/promises';
import { describe, test } from '@jest/globals';
import fc from 'fast-check';
import { repeats } from '../long.js';
import { newSeed } from './engine.js';
import { type LogEngine, newKeys, Witness } from './message-log-witness.js';

const KEYS = newKeys(12);

type Step =
  | { kind: 'publish'; keys: number[]; wait: boolean }
  | { kind: 'acknowledge'; member: number; from: number; count: number }
  | { kind: 'join'; max: number }
  | { kind: 'leave'; member: number }
  | { kind: 'reopen' }
  | { kind: 'turns'; count: number };

const member = fc.nat(5);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('publish' as const),
      keys: fc.array(fc.nat(KEYS.length - 1), { minLength: 1, maxLength: 12 }),
      wait: fc.boolean(),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('acknowledge' as const), member, from: fc.nat(10), count: fc.nat(20) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('join' as const), max: fc.integer({ min: 1, max: 30 }) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('leave' as const), member }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('turns' as const), count: fc.integer({ min: 1, max: 5 }) }) },
);

/** Random histories against the model of the {@link Witness}: whatever happens in whatever order, its rules hold. */
export function messageLogHistoryContract(name: string, engine: LogEngine, numRuns = repeats(50, 150)): void {
  describe(`the MessageLog on ${name} in any history`, () => {
    test('of publishing, acknowledging, joining, leaving and reopening hands out each event in order, to one owner, until it is acknowledged', async () => {
      const seed = newSeed('history of the log');
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
          const place = await engine.place();
          let opened = await engine.open(place.location);
          try {
            const witness = new Witness(opened.store, engine);
            let publishing: Promise<unknown>[] = [];
            for (const step of steps) {
              const at = (index: number) => witness.members[index % Math.max(1, witness.members.length)];
              if (step.kind === 'publish') {
                const published = witness.publish(step.keys.map((key) => KEYS[key] as string));
                publishing.push(published);
                if (step.wait) await published;
              } else if (step.kind === 'acknowledge') {
                const owner = at(step.member);
                if (owner) witness.acknowledge(owner, [...owner.held.keys()].slice(step.from, step.from + step.count));
              } else if (step.kind === 'join') {
                if (witness.members.length < 5) await witness.join(step.max);
              } else if (step.kind === 'leave') {
                const leaving = at(step.member);
                if (leaving) await witness.leave(leaving);
              } else if (step.kind === 'reopen') {
                await Promise.all(publishing);
                publishing = [];
                await opened.close();
                opened = await engine.open(place.location);
                witness.reopened(opened.store);
              } else for (let n = 0; n < step.count; n++) await turn();
              witness.check();
            }
            await Promise.all(publishing);
            await witness.join();
            await witness.drain();
            const left = witness.members.reduce((sum, member) => sum + member.consumer.unacknowledged, 0);
            if (left !== 0) throw new Error(`${left} are left`);
          } finally {
            await opened.close();
            await place.remove();
          }
        }),
        { seed, numRuns },
      );
    }, 600_000);
  });
}
