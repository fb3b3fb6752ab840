import { type Bench, median, type Outcome, type Row } from '../bench.js';
import type { Account, TrafficResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import type { Server, TargetName } from '../targets.js';
import { deliveredPerCpuSecond, MAX_IDS_PER_RECEIPT, pairs, steadyTraffic, WINDOW } from './steady.js';

const USERS = 100;
/** By how much the cost may grow. */
const TOLERANCE = 0.25;

interface Costs {
  fresh: TrafficResult[];
  manyUsers: TrafficResult[];
  fullStore: TrafficResult[];
}

/**
 * The same traffic of 100 users on a new server, then with thousands of users known who have mail waiting, then after
 * many accepted messages.
 */
export async function flatness(bench: Bench): Promise<Outcome> {
  const { knownUsers, storedMessages } = bench.scale;
  const all = new Map<TargetName, Costs>();
  for (const target of bench.reporting) {
    await using server = await bench.start(target, 'flatness');
    const users = await server.createUsers(USERS);
    // Compiled code and heap reach their working state here, so that it is not taken for an effect of the store.
    await steadyTraffic(bench, server, pairs(users));
    const fresh = await repeat(bench, server, users);
    await acquaint(server, users, knownUsers - USERS);
    const manyUsers = await repeat(bench, server, users);
    await runJob(server, {
      kind: 'fill',
      routes: pairs(users),
      window: WINDOW,
      messagesPerRoute: Math.ceil(storedMessages / USERS),
      online: true,
      idsPerReceipt: MAX_IDS_PER_RECEIPT,
    });
    const fullStore = await repeat(bench, server, users);
    all.set(target, { fresh, manyUsers, fullStore });
    bench.log(
      `  ${target}: ${[fresh, manyUsers, fullStore].map((each) => Math.round(rate(each))).join(', ')} per CPU s`,
    );
  }
  const rows = [
    row(`cost per message with ${text(knownUsers)} known users, of that with ${USERS}`, all, 'manyUsers'),
    row(`cost per message after ${text(storedMessages)} more messages, of that when new`, all, 'fullStore'),
  ];
  return { rows, raw: [...all] };
}

async function repeat(bench: Bench, server: Server, users: Account[]): Promise<TrafficResult[]> {
  const results: TrafficResult[] = [];
  for (let round = 0; round < bench.scale.rounds; round++) {
    results.push(await steadyTraffic(bench, server, pairs(users)));
  }
  return results;
}

/** Makes more users, each with one message waiting. */
async function acquaint(server: Server, senders: Account[], count: number): Promise<void> {
  const strangers = await server.createUsers(count);
  await runJob(server, {
    kind: 'fill',
    routes: strangers.map((stranger, index) => ({
      sender: senders[index % senders.length] as Account,
      recipient: [stranger],
    })),
    window: 1,
    messagesPerRoute: 1,
    online: false,
    idsPerReceipt: MAX_IDS_PER_RECEIPT,
  });
}

function row(measure: string, all: Map<TargetName, Costs>, later: 'manyUsers' | 'fullStore'): Row {
  const values = Object.fromEntries(
    Array.from(all, ([target, costs]) => [target, rate(costs.fresh) / rate(costs[later])]),
  ) as Row['values'];
  const goal = { text: 'at most 1.25', reached: (values.mesh ?? 0) <= 1 + TOLERANCE };
  return { measure, unit: 'share', values, ...(values.mesh !== undefined && { goal }) };
}

function rate(results: TrafficResult[]): number {
  return median(results.map(deliveredPerCpuSecond));
}

function text(count: number): string {
  return count.toLocaleString('en');
}
