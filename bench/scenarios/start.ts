import type { Bench, Outcome, Row } from '../bench.js';
import { DataDirectory, type TargetName } from '../targets.js';

const GOAL_MS = 5_000;

/** From the start of the process to ready: on an empty data directory, and on the one that this left. */
export async function start(bench: Bench): Promise<Outcome> {
  const first: Row['values'] = {};
  const second: Row['values'] = {};
  for (const target of bench.reporting) {
    using directory = new DataDirectory();
    first[target] = await readyMs(bench, target, directory);
    second[target] = await readyMs(bench, target, directory);
    bench.log(`  ${target}: ${first[target].toFixed(0)} ms, again ${second[target].toFixed(0)} ms`);
  }
  return {
    rows: [row('start to ready, first time', first), row('start to ready, again', second)],
    raw: { first, second },
  };
}

async function readyMs(bench: Bench, target: TargetName, directory: DataDirectory): Promise<number> {
  await using server = await bench.start(target, 'start', { directory });
  return server.readyMs;
}

function row(measure: string, values: Row['values']): Row {
  const goal = { text: 'within 5,000 ms', reached: (values.mesh ?? 0) <= GOAL_MS };
  return { measure, unit: 'ms', values, ...(values.mesh !== undefined && { goal }) };
}
