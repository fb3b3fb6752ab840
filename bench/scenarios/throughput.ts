import { alternate, type Bench, medians, type Outcome, type Rounds, type Row, ratioGoal } from '../bench.js';
import type { Route, TrafficResult } from '../jobs.js';
import type { Server } from '../targets.js';
import { deliveredPerCpuSecond, MAX_IDS_PER_RECEIPT, pairs, steadyTraffic } from './steady.js';

const USERS = 200;

/** 200 users in pairs, as fast as the server goes; receipts in batches, and one frame for each. */
export async function throughput(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.targets, 'throughput', async (servers) => {
    const routes = new Map<Server, Route[]>();
    for (const server of servers) routes.set(server, pairs(await server.createUsers(USERS)));
    const measure = (among: Server[], idsPerReceipt: number) =>
      alternate(among, bench.scale.rounds, async (server) => {
        const result = await steadyTraffic(bench, server, routes.get(server) ?? [], { idsPerReceipt });
        bench.log(`  ${server.target}: ${Math.round(deliveredPerCpuSecond(result))} delivered per CPU s`);
        return result;
      });
    const batched = await measure(servers, MAX_IDS_PER_RECEIPT);
    const reporting = servers.filter(({ receipts }) => receipts);
    const single = await measure(reporting, 1);
    return { rows: rows(batched, single), raw: { batched: [...batched], single: [...single] } };
  });
}

function rows(batched: Rounds<TrafficResult>, single: Rounds<TrafficResult>): Row[] {
  const perCpuSecond = medians(batched, deliveredPerCpuSecond);
  return [
    {
      measure: 'accepted and delivered, receipts in batches',
      unit: 'messages per CPU s',
      values: perCpuSecond,
      ...ratioGoal(perCpuSecond, { atLeast: 0.2 }),
    },
    {
      measure: 'accepted and delivered, receipts in batches',
      unit: 'messages/s',
      values: medians(batched, ({ delivered, seconds }) => delivered / seconds),
    },
    {
      measure: 'accepted and delivered, one frame per receipt',
      unit: 'messages per CPU s',
      values: medians(single, deliveredPerCpuSecond),
    },
    {
      measure: 'the load generator beside it, receipts in batches',
      unit: 'CPU µs per message',
      values: medians(batched, ({ delivered, loadCpuSeconds }) => (loadCpuSeconds * 1e6) / delivered),
    },
  ];
}
