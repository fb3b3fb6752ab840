import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { plans } from './plans.js';
import { type Plan, run } from './run.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string' },
    path: { type: 'string' },
    plan: { type: 'string' },
  },
});

if (values.plan !== undefined) {
  const { fault } = await run(JSON.parse(values.plan) as Plan, (text) => console.log(text));
  console.log(fault ?? 'No promise was broken.');
  process.exit(fault === undefined ? 0 : 1);
}

let histories = 0;
let events = 0;
const began = performance.now();
const now = performance.now.bind(performance);
const untilMs = began + Number(values.minutes) * 60_000;
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);

const result = await fc.check(
  fc.asyncProperty(plans, async (plan: Plan) => {
    if (now() > untilMs) return;
    const { fault, events: happened } = await run(plan);
    histories++;
    events += happened;
    if (fault !== undefined) throw new Error(fault);
  }),
  {
    seed,
    ...(values.path !== undefined && { path: values.path }),
    numRuns: 1_000_000_000,
    interruptAfterTimeLimit: Number(values.minutes) * 60_000,
    endOnFailure: false,
  },
);
const seconds = (now() - began) / 1000;
console.log(`seed ${seed}: ${histories} histories, ${events} events in ${seconds.toFixed(0)} s`);
if (result.failed && result.counterexample) {
  console.log(`path ${result.counterexamplePath}, after ${result.numShrinks} shrinks`);
  console.log(JSON.stringify(result.counterexample[0]));
  console.log(String((result.errorInstance as Error).message).slice(0, 6000));
  process.exitCode = 1;
}
process.exit();
