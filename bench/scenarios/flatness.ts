import { type Bench, median, type Outcome, type Row } from '../bench.js';
import type { Account, TrafficResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import type { Server, TargetName } from '../targets.js';
import { deliveredPerCpuSecond, MAX_IDS_PER_RECEIPT, pairs, steadyTraffic, WINDOW } from './steady.js';

const USERS = 100;
/** Until so many messages the cost falls, while code is compiled and the heap finds its size: by two thirds. */
const WARM_UP_MESSAGES = 50_000;
/** By how much the cost may grow. */
const TOLERANCE = 0.25;

/** A server, and the 100 users whose traffic is measured on it. */
interface Side {
  readonly server: Server;
  readonly users: Account[];
}

interface Costs {
  readonly manyUsers: Growth;
  readonly fullStore: Growth;
}

interface Growth {
  /** Cost per message, of that on the server that stayed as it was. */
  readonly share: number;
  readonly aged: TrafficResult[];
  readonly fresh: TrafficResult[];
}

/**
 * The same traffic of 100 users, after thousands of users are known who have mail waiting, and after many accepted
 * messages. Each time it is compared with a second server that has had only as much traffic as warms it up, in turn with
 * it: minutes lie between the stages, and a machine's speed changes by more than what is looked for.
 */
export async function flatness(bench: Bench): Promise<Outcome> {
  const { knownUsers, storedMessages } = bench.scale;
  const all = new Map<TargetName, Costs>();
  for (const target of bench.reporting) {
    await using agedServer = await bench.start(target, 'flatness');
    await using freshServer = await bench.start(target, 'flatness-fresh');
    const aged: Side = { server: agedServer, users: await agedServer.createUsers(USERS) };
    const fresh: Side = { server: freshServer, users: await freshServer.createUsers(USERS) };
    for (const side of [aged, fresh]) await fill(side, WARM_UP_MESSAGES);
    await acquaint(aged, knownUsers - USERS);
    const manyUsers = await compare(bench, aged, fresh);
    bench.log(`  ${target}: ${manyUsers.share.toFixed(2)} with ${text(knownUsers)} known users`);
    await fill(aged, storedMessages);
    const fullStore = await compare(bench, aged, fresh);
    bench.log(`  ${target}: ${fullStore.share.toFixed(2)} after ${text(storedMessages)} more messages`);
    all.set(target, { manyUsers, fullStore });
  }
  const rows = [
    row(`cost per message with ${text(knownUsers)} known users, of that with ${USERS}`, all, 'manyUsers'),
    row(`cost per message after ${text(storedMessages)} more messages, of that of a new server`, all, 'fullStore'),
  ];
  return { rows, raw: [...all] };
}

async function compare(bench: Bench, aged: Side, fresh: Side): Promise<Growth> {
  const results = new Map<Side, TrafficResult[]>([
    [aged, []],
    [fresh, []],
  ]);
  for (let round = 0; round < bench.scale.rounds; round++) {
    for (const [{ server, users }, measured] of results)
      measured.push(await steadyTraffic(bench, server, pairs(users)));
  }
  return {
    share: rate(results.get(fresh)) / rate(results.get(aged)),
    aged: results.get(aged) ?? [],
    fresh: results.get(fresh) ?? [],
  };
}

/** Messages among the users, delivered and confirmed, as fast as the server goes. */
async function fill({ server, users }: Side, messages: number): Promise<void> {
  await runJob(server, {
    kind: 'fill',
    routes: pairs(users),
    window: WINDOW,
    messagesPerRoute: Math.ceil(messages / USERS),
    online: true,
    idsPerReceipt: MAX_IDS_PER_RECEIPT,
  });
}

/** Makes more users, each with one message waiting. */
async function acquaint({ server, users: senders }: Side, count: number): Promise<void> {
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

function row(measure: string, all: Map<TargetName, Costs>, stage: keyof Costs): Row {
  const values = Object.fromEntries(
    Array.from(all, ([target, costs]) => [target, costs[stage].share]),
  ) as Row['values'];
  const goal = { text: 'at most 1.25', reached: (values.mesh ?? 0) <= 1 + TOLERANCE };
  return { measure, unit: 'share', values, ...(values.mesh !== undefined && { goal }) };
}

function rate(results: TrafficResult[] = []): number {
  return median(results.map(deliveredPerCpuSecond));
}

function text(count: number): string {
  return count.toLocaleString('en');
}
