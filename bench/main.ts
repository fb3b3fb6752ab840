import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Bench, type Scale, type Scenario } from './bench.js';
import { RealEngines } from './engines.js';
import { machine, markdown, type Report } from './report.js';
import { drain } from './scenarios/drain.js';
import { engines } from './scenarios/engines.js';
import { fanOut } from './scenarios/fan-out.js';
import { flatness } from './scenarios/flatness.js';
import { idle } from './scenarios/idle.js';
import { latency } from './scenarios/latency.js';
import { longTexts } from './scenarios/long-texts.js';
import { routers } from './scenarios/routers.js';
import { soak } from './scenarios/soak.js';
import { start } from './scenarios/start.js';
import { throughput } from './scenarios/throughput.js';
import type { TargetName } from './targets.js';

const RESULTS = fileURLToPath(new URL('../results', import.meta.url));
const TARGETS: readonly TargetName[] = ['baseline-no-receipts', 'baseline', 'mesh'];
const TARGETS_ON_ENGINES: readonly TargetName[] = ['baseline', 'mesh', 'mesh-on-engines'];

const EMBEDDED: Record<string, Scenario> = {
  start,
  throughput,
  latency,
  idle,
  drain,
  'long-texts': longTexts,
  'fan-out': fanOut,
  flatness,
  soak,
};

const ON_ENGINES: Record<string, Scenario> = { engines, routers };

const SCALE: Scale = {
  warmUpMs: 4_000,
  measureMs: 8_000,
  rounds: 3,
  latencyRounds: 5,
  drainRounds: 5,
  idleConnections: 10_000,
  idleRounds: 1,
  storedMessages: 200_000,
  knownUsers: 10_000,
  soakMs: 60_000,
};
const QUICK: Partial<Scale> = {
  warmUpMs: 2_000,
  measureMs: 3_000,
  rounds: 1,
  latencyRounds: 3,
  drainRounds: 3,
  storedMessages: 50_000,
  knownUsers: 2_000,
  soakMs: 20_000,
};
const FULL: Partial<Scale> = { storedMessages: 1_000_000, soakMs: 300_000 };

const USAGE = `npm run bench -- [options]

Measures the mesh against a bare durable relay. Prints a table in Markdown and writes JSON with everything measured.
The CPU time is that of the server's process and its children, without engines.

  --only A,B       just these: ${Object.keys(EMBEDDED).join(', ')};
                   on real engines: ${Object.keys(ON_ENGINES).join(', ')}
  --engines KIND   embedded (the default), or real: starts Cassandra, Pulsar, Redis and PostgreSQL on this machine
  --targets A,B    just these: ${TARGETS.join(', ')}, mesh-on-engines
  --before DIR     compares with the version that is built in this folder, in turn; then by default without baselines
  --rounds N       repetitions of each measurement
  --quick          short windows, one round: for a look, not for the record
  --full           1,000,000 stored messages, and five minutes instead of one at half load
  --profile        the servers leave CPU profiles in bench/results
  --out FILE       where the JSON goes, by default bench/results/latest.json
`;

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    targets: { type: 'string' },
    engines: { type: 'string', default: 'embedded' },
    before: { type: 'string' },
    rounds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    full: { type: 'boolean', default: false },
    profile: { type: 'boolean', default: false },
    out: { type: 'string', default: `${RESULTS}/latest.json` },
    help: { type: 'boolean', default: false },
  },
});

// Children are ended when this process exits; a signal has to become an exit.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

if (values.help) console.log(USAGE);
else process.exitCode = await run();

async function run(): Promise<number> {
  const scale = { ...SCALE, ...(values.quick && QUICK), ...(values.full && FULL), ...roundsOf(values.rounds) };
  const real = chosen(values.engines, ['embedded', 'real'])[0] === 'real';
  const scenarios = real ? ON_ENGINES : EMBEDDED;
  const all = real ? TARGETS_ON_ENGINES : TARGETS;
  const targets =
    values.before === undefined
      ? chosen(values.targets, all)
      : chosen(values.targets ?? 'mesh-before,mesh', ['mesh-before', ...all]);
  const names = chosen(values.only, Object.keys(scenarios));
  await using started = real ? await RealEngines.start() : undefined;
  mkdirSync(RESULTS, { recursive: true });
  const bench = new Bench(scale, targets, {
    engines: started,
    profileDirectory: values.profile ? RESULTS : undefined,
    before: values.before,
  });
  const report: Report = {
    date: new Date().toISOString(),
    machine: machine(),
    profiled: values.profile,
    scale,
    scenarios: {},
    failures: {},
  };
  for (const name of names) {
    bench.log(`${name}:`);
    try {
      report.scenarios[name] = await (scenarios[name] as Scenario)(bench);
    } catch (error) {
      report.failures[name] = explain(error);
      bench.log(`${name} failed: ${report.failures[name]}`);
    }
  }
  mkdirSync(dirname(values.out), { recursive: true });
  writeFileSync(values.out, `${JSON.stringify(report, undefined, 2)}\n`);
  console.log(`\n${markdown(report)}\n`);
  bench.log(`All figures: ${values.out}`);
  for (const profile of bench.profiles) bench.log(`CPU profile: ${profile}`);
  return Object.keys(report.failures).length > 0 ? 1 : 0;
}

function roundsOf(text: string | undefined): Partial<Scale> {
  if (text === undefined) return {};
  const rounds = Number(text);
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > 100) {
    console.error(`--rounds takes a number from 1 to 100, not ${text}`);
    process.exit(2);
  }
  return { rounds, latencyRounds: rounds, drainRounds: rounds, idleRounds: rounds };
}

/** What went wrong first, then what went wrong while cleaning up after it. */
function explain(error: unknown): string {
  return error instanceof Error && 'suppressed' in error && 'error' in error
    ? `${explain(error.suppressed)}\n${explain(error.error)}`
    : (error as Error).message;
}

function chosen<T extends string>(list: string | undefined, known: readonly T[]): T[] {
  if (list === undefined) return [...known];
  const wanted = list.split(',');
  const unknown = wanted.filter((name) => !known.includes(name as T));
  if (unknown.length > 0) {
    console.error(`Unknown: ${unknown.join(', ')}. Known: ${known.join(', ')}.`);
    process.exit(2);
  }
  return known.filter((name) => wanted.includes(name));
}
