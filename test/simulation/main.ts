import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { MUTANTS } from './mutants.js';
import { plans } from './plans.js';
import { type Plan, run } from './run.js';

const USAGE = `npm run simulate -- [options]

Runs histories of a whole mesh in one thread, each with other faults, until one breaks a promise or the time is over.

  --minutes N       how long, by default 1
  --seed N          the seed of the first history; by default another one each time
  --path P          with --seed: goes on from the failure that was found there
  --plan JSON       one history, with all that happens in it
  --mutants WHICH   whether known faults in the rules of delivery are found, within a minute each: "some" (five of them),
                    "all", or those with this in their names
`;

/** How much of a verdict is printed. */
const MAX_TEXT = 6_000;
/** Each mutant has to be found within this, milliseconds. */
const MUTANT_MS = 60_000;
const SOME_MUTANTS = 5;

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '1' },
    seed: { type: 'string' },
    path: { type: 'string' },
    plan: { type: 'string' },
    mutants: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
const now = performance.now.bind(performance);
const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 31) : Number(values.seed);

if (values.help) console.log(USAGE);
else if (values.plan !== undefined) await one(JSON.parse(values.plan) as Plan);
else if (values.mutants !== undefined) await mutants(values.mutants);
else await many(Number(values.minutes) * 60_000);
// Histories that were broken off still wait for something.
process.exit();

async function one(plan: Plan): Promise<void> {
  const { fault } = await run(plan, (text) => console.log(text));
  console.log(fault ?? 'No promise was broken.');
  if (fault !== undefined) process.exitCode = 1;
}

async function many(forMs: number): Promise<void> {
  const began = now();
  let histories = 0;
  let events = 0;
  const property = fc.asyncProperty(plans, async (plan) => {
    const { fault, events: happened } = await run(plan);
    histories++;
    events += happened;
    if (fault !== undefined) throw new Error(fault);
  });
  const { path } = values;
  const found = await fc.check(property, {
    seed,
    ...(path !== undefined && { path }),
    numRuns: Number.MAX_SAFE_INTEGER,
    interruptAfterTimeLimit: forMs,
    endOnFailure: process.env.MUTANT !== undefined,
  });
  const seconds = (now() - began) / 1000;
  console.log(`seed ${seed}: ${histories} histories, ${events} events in ${seconds.toFixed(0)} s`);
  if (!found.failed || !found.counterexample) return;
  console.log(`--seed ${seed} --path ${found.counterexamplePath}, shrunk ${found.numShrinks} times:`);
  console.log(JSON.stringify(found.counterexample[0]));
  console.log(String((found.errorInstance as Error).message).slice(0, MAX_TEXT));
  process.exitCode = 1;
}

/** Whether each mutant makes some history break a promise. */
async function mutants(which: string): Promise<void> {
  const first = seed % MUTANTS.length;
  const chosen =
    which === 'all'
      ? MUTANTS
      : which === 'some'
        ? Array.from({ length: SOME_MUTANTS }, (_, i) => MUTANTS[(first + i * 7) % MUTANTS.length])
        : MUTANTS.filter(({ name }) => name.includes(which));
  console.log(`seed ${seed}`);
  for (const mutant of chosen) {
    if (!mutant) continue;
    const began = now();
    const program = fileURLToPath(import.meta.url);
    const mutate = new URL('./mutate.js', import.meta.url).href;
    const args = ['--import', mutate, program, '--minutes', String(MUTANT_MS / 60_000), '--seed', String(seed)];
    const env = { ...process.env, MUTANT: mutant.name };
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    let said = '';
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => {
        said += data;
      });
    const [code] = (await once(child, 'close')) as [number];
    const broke = /histories/.test(said);
    const how = !broke ? 'DID NOT RUN' : code === 1 ? 'found' : 'NOT FOUND';
    if (how !== 'found') process.exitCode = 1;
    const kinds = [...said.matchAll(/^ +[1-9]\d* {2}(\w+):/gm)].map(([, kind]) => kind);
    const why =
      kinds.length > 0 ? kinds.join(', ') : (/not everything had arrived|promise was rejected/.exec(said)?.[0] ?? '');
    console.log(
      `${how.padEnd(11)} ${((now() - began) / 1000).toFixed(0).padStart(3)} s  ${mutant.name}${why ? `: ${why}` : ''}`,
    );
    if (!broke) console.log(said.slice(0, 600));
  }
}
