import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { repeats } from '../long.js';
import { plans } from './plans.js';
import { type Plan, run } from './run.js';

/** Those that found a fault of the product once, as small as they became. */
const FOUND: readonly [what: string, plan: Plan][] = [
  [
    'a row of what was confirmed while its device was drained',
    {
      seed: 533363905,
      users: 2,
      devices: 1,
      routers: 2,
      edges: 2,
      steps: [
        { kind: 'online', afterMs: 0, device: 0 },
        { kind: 'kill', afterMs: 1005, node: 0, forMs: 100 },
        { kind: 'online', afterMs: 10, device: 3 },
        { kind: 'send', afterMs: 10, device: 0, to: 0, count: 4 },
        { kind: 'send', afterMs: 42, device: 0, to: 0, count: 7 },
      ],
    },
  ],
  [
    'two copies on the log, of which the record named the later one',
    {
      seed: -13,
      users: 2,
      devices: 1,
      routers: 2,
      edges: 1,
      steps: [
        { kind: 'online', afterMs: 0, device: 7 },
        { kind: 'send', afterMs: 2, device: 1, to: 0, count: 200 },
        { kind: 'cut', afterMs: 6, edge: 0, router: 9 },
        { kind: 'send', afterMs: 4, device: 0, to: 0, count: 4 },
      ],
    },
  ],
  [
    'a message that was tried again after an outage, behind later ones',
    {
      seed: 0,
      users: 2,
      devices: 1,
      routers: 1,
      edges: 1,
      steps: [
        { kind: 'send', afterMs: 0, device: 0, to: 0, count: 203 },
        { kind: 'failing', afterMs: 0, engine: 'log', perMille: 27, forMs: 100 },
        { kind: 'online', afterMs: 2, device: 0 },
        { kind: 'stop', afterMs: 18, node: 0, forMs: 100 },
      ],
    },
  ],
  [
    'copies that the log did not take when it took their message',
    {
      seed: -1425393915,
      users: 3,
      devices: 2,
      routers: 2,
      edges: 1,
      steps: [
        { kind: 'online', afterMs: 1288, device: 1 },
        { kind: 'away', afterMs: 2, engine: 'log', forMs: 100 },
        { kind: 'failing', afterMs: 0, engine: 'log', perMille: 391, forMs: 1873 },
        { kind: 'online', afterMs: 6, device: 0 },
        { kind: 'move', afterMs: 1302, partition: 7 },
        { kind: 'send', afterMs: 545, device: 13, to: 2, count: 1 },
        { kind: 'failing', afterMs: 9, engine: 'inbox', perMille: 19, forMs: 8247 },
        { kind: 'online', afterMs: 4, device: 5 },
        { kind: 'send', afterMs: 47, device: 9, to: 4, count: 4 },
        { kind: 'manner', afterMs: 3, device: 13, manner: 'delivered' },
        { kind: 'newDevice', afterMs: 5, user: 12 },
      ],
    },
  ],
  [
    'read at one device, delivered at another one, while their owner changed',
    {
      seed: 2113531870,
      users: 3,
      devices: 2,
      routers: 2,
      edges: 1,
      steps: [
        { kind: 'move', afterMs: 1165, partition: 1 },
        { kind: 'online', afterMs: 1, device: 10 },
        { kind: 'send', afterMs: 2142, device: 8, to: 0, count: 5 },
        { kind: 'move', afterMs: 21, partition: 5 },
        { kind: 'stop', afterMs: 31, node: 0, forMs: 100 },
        { kind: 'manner', afterMs: 38, device: 7, manner: 'read' },
        { kind: 'send', afterMs: 48, device: 0, to: 0, count: 2 },
      ],
    },
  ],
];

describe('a simulated mesh', () => {
  test('runs alike with the same seed', async () => {
    const [, plan] = FOUND[0] as (typeof FOUND)[number];
    const [one, other] = [await run(plan), await run(plan)];
    expect(other.trace).toBe(one.trace);
    expect(other.events).toBe(one.events);
    expect(one.events).toBeGreaterThan(1000);
  });

  test.each(FOUND)('%s: is found no more', async (_, plan) => {
    expect((await run(plan)).fault).toBeUndefined();
  });

  test('keeps every promise, whatever fails', async () => {
    await fc.assert(
      fc.asyncProperty(plans, async (plan) => {
        const { fault } = await run(plan);
        if (fault !== undefined) throw new Error(fault);
      }),
      { numRuns: repeats(20, 500), seed: 1, endOnFailure: true },
    );
  });
});
