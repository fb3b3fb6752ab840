import { type Bench, medians, type Outcome, type Rounds, type Row } from '../bench.js';
import type { Account, IdleResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import { openFilesLimit } from '../procfs.js';
import { DataDirectory, type TargetName } from '../targets.js';
import { MAX_IDS_PER_RECEIPT } from './steady.js';

/** Files that a process has open besides the connections. */
const OTHER_FILES = 500;

/** Memory that connections cost which do nothing. */
export async function idle(bench: Bench): Promise<Outcome> {
  const possible = openFilesLimit() - OTHER_FILES;
  if (possible < 1_000) throw new Error(`the limit of open files is ${openFilesLimit()} (ulimit -n): too few`);
  const connections = Math.min(bench.scale.idleConnections, possible);
  if (connections < bench.scale.idleConnections) {
    bench.log(`  only ${connections} connections: the limit of open files is ${openFilesLimit()} (ulimit -n)`);
  }
  const results: Rounds<IdleResult> = new Map(bench.reporting.map((target) => [target, []]));
  for (let round = 0; round < bench.scale.idleRounds; round++) {
    for (const target of bench.reporting) {
      const result = await measure(bench, target, connections);
      results.get(target)?.push(result);
      const figures = [resident(result, 'soon'), resident(result, 'after'), resident(result, 'collected')];
      const [soon, after, collected] = figures.map((figure) => figure.toFixed(1));
      bench.log(`  ${target}: KiB per connection: ${soon} after 10 s, ${after} left alone, ${collected} in use`);
    }
  }
  return { rows: rows(results, connections), raw: [...results] };
}

/** On a new process, so that what the making of the users left in the heap is not there. */
async function measure(bench: Bench, target: TargetName, connections: number): Promise<IdleResult> {
  using directory = new DataDirectory();
  const accounts = await createUsers(bench, target, directory, connections);
  await using server = await bench.start(target, 'idle', { directory, collectOnSignal: true });
  return await runJob(server, { kind: 'idle', accounts, idsPerReceipt: MAX_IDS_PER_RECEIPT });
}

async function createUsers(
  bench: Bench,
  target: TargetName,
  directory: DataDirectory,
  count: number,
): Promise<Account[]> {
  await using server = await bench.start(target, 'idle-users', { directory });
  return await server.createUsers(count);
}

function resident(result: IdleResult, when: 'soon' | 'after' | 'collected'): number {
  return (result[when].residentKiB - result.before.residentKiB) / result.connections;
}

function rows(results: Rounds<IdleResult>, connections: number): Row[] {
  const measure = `memory per idle connection, ${connections.toLocaleString('en')} of them on a new server`;
  return [
    memoryRow(
      measure,
      medians(results, (result) => resident(result, 'after')),
    ),
    {
      measure: 'the same 10 s after the last connect',
      unit: 'KiB',
      values: medians(results, (result) => resident(result, 'soon')),
    },
    memoryRow(
      'the same once all garbage is collected by force',
      medians(results, (result) => resident(result, 'collected')),
    ),
    {
      measure: 'connections opened',
      unit: 'per CPU s',
      values: medians(results, (result) => result.connections / result.connectServerCpuSeconds),
    },
  ];
}

function memoryRow(measure: string, values: Row['values']): Row {
  const { baseline, mesh } = values;
  const row: Row = { measure, unit: 'KiB', values };
  if (baseline === undefined || mesh === undefined) return row;
  return { ...row, goal: { text: 'at most 8 KiB over the baseline', reached: mesh - baseline <= 8 } };
}
