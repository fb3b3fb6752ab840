import { alternate, type Bench, medians, type Outcome, type Rounds, type Row, ratioGoal } from '../bench.js';
import type { Route, TrafficResult } from '../jobs.js';
import type { Server } from '../targets.js';
import { pairs, steadyTraffic } from './steady.js';

const USERS = 200;
const MESSAGES_PER_SECOND = 1_000;

/** 1,000 messages a second whatever comes back, in paired runs that alternate between the targets. */
export async function latency(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'latency', async (servers) => {
    const routes = new Map<Server, Route[]>();
    for (const server of servers) routes.set(server, pairs(await server.createUsers(USERS)));
    const pace = { perSecond: MESSAGES_PER_SECOND };
    const rounds = await alternate(servers, bench.scale.latencyRounds, async (server) => {
      const result = await steadyTraffic(bench, server, routes.get(server) ?? [], { pace });
      const { p50, p99 } = result.latency.message;
      bench.log(`  ${server.target}: p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`);
      return result;
    });
    return { rows: rows(rounds), raw: [...rounds] };
  });
}

function rows(rounds: Rounds<TrafficResult>): Row[] {
  const p50 = medians(rounds, ({ latency }) => latency.message.p50);
  const p99 = medians(rounds, ({ latency }) => latency.message.p99);
  return [
    { measure: 'send to arrival at 1,000/s, p50', unit: 'ms', values: p50, ...ratioGoal(p50, { atMost: 3 }) },
    { measure: 'send to arrival at 1,000/s, p99', unit: 'ms', values: p99, ...ratioGoal(p99, { atMost: 4 }) },
    {
      measure: 'send to `sent` at 1,000/s, p50',
      unit: 'ms',
      values: medians(rounds, ({ latency }) => latency.sent.p50),
    },
    {
      measure: 'send to `delivered` at 1,000/s, p50',
      unit: 'ms',
      values: medians(rounds, ({ latency }) => latency.receipt.p50),
    },
    {
      measure: 'the server at 1,000/s',
      unit: 'CPU s per s',
      values: medians(rounds, ({ serverCpuSeconds, seconds }) => serverCpuSeconds / seconds),
    },
  ];
}
