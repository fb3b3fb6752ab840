import fc from 'fast-check';
import type { Plan, Step } from './run.js';

const any = fc.nat({ max: 15 });
const briefly = fc.integer({ min: 100, max: 12_000 });
/** Not the attempts: where they are away, a message may be told another time than its first copy bears, as their store says. */
const engine = fc.constantFrom('log', 'inbox', 'statuses', 'directory');

function step<K extends Step['kind']>(
  kind: K,
  rest: {
    [F in keyof Omit<Extract<Step, { kind: K }>, 'kind' | 'afterMs'>]: fc.Arbitrary<Extract<Step, { kind: K }>[F]>;
  },
): fc.Arbitrary<Step> {
  const afterMs = fc.oneof(
    { arbitrary: fc.nat({ max: 50 }), weight: 3 },
    { arbitrary: fc.nat({ max: 3_000 }), weight: 1 },
  );
  return fc.record({ kind: fc.constant(kind), afterMs, ...rest }) as unknown as fc.Arbitrary<Step>;
}

/** Everything, much of it at once. */
const wild = fc.oneof(
  { weight: 12, arbitrary: step('send', { device: any, to: any, count: fc.integer({ min: 1, max: 8 }) }) },
  { weight: 1, arbitrary: step('send', { device: any, to: any, count: fc.integer({ min: 200, max: 400 }) }) },
  { weight: 6, arbitrary: step('online', { device: any }) },
  { weight: 4, arbitrary: step('offline', { device: any, properly: fc.boolean() }) },
  { weight: 3, arbitrary: step('manner', { device: any, manner: fc.constantFrom('delivered', 'read', 'silent') }) },
  { weight: 1, arbitrary: step('newDevice', { user: any }) },
  { weight: 3, arbitrary: step('kill', { node: any, forMs: briefly }) },
  { weight: 2, arbitrary: step('stop', { node: any, forMs: briefly }) },
  { weight: 1, arbitrary: step('stall', { edge: any, router: any, forMs: briefly }) },
  { weight: 2, arbitrary: step('cut', { edge: any, router: any }) },
  { weight: 2, arbitrary: step('move', { partition: any }) },
  { weight: 3, arbitrary: step('away', { engine, forMs: briefly }) },
  { weight: 1, arbitrary: step('failing', { engine, perMille: fc.integer({ min: 10, max: 500 }), forMs: briefly }) },
  { weight: 1, arbitrary: step('clock', { node: any, byMs: fc.integer({ min: -3_600_000, max: 3_600_000 }) }) },
);

/** Time goes by, and little fails: what was confirmed a while ago must not come again. */
const calm = fc
  .tuple(
    fc.oneof(fc.nat({ max: 50 }), fc.integer({ min: 900, max: 2_500 })),
    fc.oneof(
      { weight: 4, arbitrary: step('send', { device: any, to: any, count: fc.integer({ min: 1, max: 8 }) }) },
      { weight: 6, arbitrary: step('online', { device: any }) },
      { weight: 1, arbitrary: step('offline', { device: any, properly: fc.boolean() }) },
      { weight: 3, arbitrary: step('manner', { device: any, manner: fc.constantFrom('delivered', 'silent') }) },
      { weight: 2, arbitrary: step('kill', { node: any, forMs: fc.constant(100) }) },
      { weight: 1, arbitrary: step('move', { partition: any }) },
      { weight: 1, arbitrary: step('away', { engine: fc.constant('inbox' as const), forMs: briefly }) },
    ),
  )
  .map(([afterMs, one]): Step => ({ ...one, afterMs }));

/** Small meshes and what may happen to them. */
export const plans: fc.Arbitrary<Plan> = fc.record({
  seed: fc.integer(),
  users: fc.integer({ min: 2, max: 4 }),
  devices: fc.integer({ min: 1, max: 2 }),
  routers: fc.integer({ min: 1, max: 3 }),
  edges: fc.integer({ min: 1, max: 2 }),
  steps: fc.oneof(
    { weight: 2, arbitrary: fc.array(wild, { minLength: 1, maxLength: 40 }) },
    { weight: 1, arbitrary: fc.array(calm, { minLength: 1, maxLength: 20 }) },
  ),
});
