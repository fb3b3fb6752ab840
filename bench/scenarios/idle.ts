import { type Bench, medians, type Outcome, type Rounds, type Row } from '../bench.js';
import type { IdleResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import { openFilesLimit } from '../procfs.js';
import { MAX_IDS_PER_RECEIPT } from './steady.js';

/**
 * Opened first: the young generation of the server's heap grows to its working size with them, which costs tens of
 * MiB once and would be taken for a cost per connection.
 */
const WARM_UP_CONNECTIONS = 5_000;
/** Files that a process has open besides the connections. */
const OTHER_FILES = 500;

/** Memory that a connection costs which does nothing. */
export async function idle(bench: Bench): Promise<Outcome> {
  const possible = openFilesLimit() - OTHER_FILES - WARM_UP_CONNECTIONS;
  if (possible < 1_000)
    throw new Error(`the limit of open files is ${openFilesLimit()} (ulimit -n): too few connections`);
  const connections = Math.min(bench.scale.idleConnections, possible);
  if (connections < bench.scale.idleConnections) {
    bench.log(`  only ${connections} connections: the limit of open files is ${openFilesLimit()} (ulimit -n)`);
  }
  const results: Rounds<IdleResult> = new Map();
  for (const target of bench.reporting) {
    await using server = await bench.start(target, 'idle');
    const accounts = await server.createUsers(connections + WARM_UP_CONNECTIONS);
    const result = await runJob(server, {
      kind: 'idle',
      warmUpAccounts: accounts.slice(connections),
      accounts: accounts.slice(0, connections),
      idsPerReceipt: MAX_IDS_PER_RECEIPT,
    });
    results.set(target, [result]);
    bench.log(`  ${target}: ${perConnection(result).toFixed(1)} KiB per connection`);
  }
  const values = medians(results, perConnection);
  return { rows: rows(values, results, connections), raw: [...results] };
}

function perConnection({ before, after, connections }: IdleResult): number {
  return (after.residentKiB - before.residentKiB) / connections;
}

function rows(values: Row['values'], results: Rounds<IdleResult>, connections: number): Row[] {
  const memory: Row = {
    measure: `memory per idle connection, ${connections.toLocaleString('en')} of them`,
    unit: 'KiB',
    values,
  };
  if (values.baseline !== undefined && values.mesh !== undefined) {
    memory.goal = { text: 'at most 8 KiB over the baseline', reached: values.mesh - values.baseline <= 8 };
  }
  return [
    memory,
    {
      measure: 'connections opened',
      unit: 'per CPU s',
      values: medians(results, (result) => result.connections / result.connectServerCpuSeconds),
    },
  ];
}
