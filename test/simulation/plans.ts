import fc from 'fast-check';
import type { Plan, Step } from './run.js';

const any = fc.nat({ max: 15 });
const briefly = fc.integer({ min: 100, max: 12_000 });
/** Not the attempts: where they are away, a message may be told another time than its first copy bears, as their store says. */
const engine: fc.Arbitrary<'log' | 'inbox' | 'statuses' | 'directory'> = fc.constantFrom(
  'log',
  'inbox',
  'statuses',
  'directory',
);

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

const send = step('send', { device: any, to: any, count: fc.integer({ min: 1, max: 8 }) });
/** More than a window holds. */
const flood = step('send', { device: any, to: any, count: fc.integer({ min: 200, max: 400 }) });
const online = step('online', { device: any });
const offline = step('offline', { device: any, properly: fc.boolean() });
const manner = step('manner', { device: any, manner: fc.constantFrom('delivered', 'read', 'silent') });
const newDevice = step('newDevice', { user: any });
const kill = step('kill', { node: any, forMs: briefly });
const stop = step('stop', { node: any, forMs: briefly });
const stall = step('stall', { edge: any, router: any, forMs: briefly });
const cut = step('cut', { edge: any, router: any });
const move = step('move', { partition: any });
const away = (which: typeof engine) => step('away', { engine: which, forMs: briefly });
const failing = (which: typeof engine) =>
  step('failing', { engine: which, perMille: fc.integer({ min: 10, max: 500 }), forMs: briefly });
const clock = step('clock', { node: any, byMs: fc.integer({ min: -3_600_000, max: 3_600_000 }) });

/** Everything, much of it at once. */
const wild = fc.oneof(
  { weight: 12, arbitrary: send },
  { weight: 1, arbitrary: flood },
  { weight: 6, arbitrary: online },
  { weight: 4, arbitrary: offline },
  { weight: 3, arbitrary: manner },
  { weight: 1, arbitrary: newDevice },
  { weight: 3, arbitrary: kill },
  { weight: 2, arbitrary: stop },
  { weight: 1, arbitrary: stall },
  { weight: 2, arbitrary: cut },
  { weight: 2, arbitrary: move },
  { weight: 3, arbitrary: away(engine) },
  { weight: 1, arbitrary: failing(engine) },
  { weight: 1, arbitrary: clock },
);

/** A few kinds of faults, and much of each: what fails only where two meet is met more often than where all do (swarm testing). */
const FAULTS = [
  flood,
  newDevice,
  kill,
  stop,
  stall,
  cut,
  move,
  clock,
  ...(['log', 'inbox', 'statuses', 'directory'] as const).flatMap((name) => {
    const one = fc.constant(name);
    return [away(one), failing(one)];
  }),
];
const swarm = fc
  .subarray(FAULTS, { minLength: 1, maxLength: 4 })
  .chain((faults) =>
    fc.array(
      fc.oneof(
        { weight: 4, arbitrary: send },
        { weight: 2, arbitrary: online },
        { weight: 1, arbitrary: offline },
        { weight: 1, arbitrary: manner },
        { weight: 4, arbitrary: fc.oneof(...faults) },
      ),
      { minLength: 1, maxLength: 30 },
    ),
  );

/** Time goes by, and little fails: what was confirmed a while ago must not come again. */
const calm = fc
  .tuple(
    fc.oneof(fc.nat({ max: 50 }), fc.integer({ min: 900, max: 2_500 })),
    fc.oneof(
      { weight: 4, arbitrary: send },
      { weight: 6, arbitrary: online },
      { weight: 1, arbitrary: offline },
      { weight: 3, arbitrary: step('manner', { device: any, manner: fc.constantFrom('delivered', 'silent') }) },
      { weight: 2, arbitrary: step('kill', { node: any, forMs: fc.constant(100) }) },
      { weight: 1, arbitrary: move },
      { weight: 1, arbitrary: away(fc.constant('inbox')) },
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
    { weight: 3, arbitrary: swarm },
    { weight: 1, arbitrary: fc.array(calm, { minLength: 1, maxLength: 20 }) },
  ),
});
