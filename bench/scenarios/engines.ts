import { alternate, type Bench, medians, type Outcome, type Row } from '../bench.js';
import type { Route } from '../jobs.js';
import { runJob } from '../load-process.js';
import type { Server } from '../targets.js';
import { MAX_IDS_PER_RECEIPT, pairs, steadyTraffic, WINDOW } from './steady.js';

const USERS = 200;
const MESSAGES_PER_SECOND = 300;
const SENDERS = 10;
const BACKLOG = 10_000;
const DRAINS = 3;

/** The mesh on real engines, which share the machine with it, beside the embedded one and the baseline. */
export async function engines(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'engines', async (servers) => {
    const routes = new Map<Server, Route[]>();
    for (const server of servers) routes.set(server, pairs(await server.createUsers(USERS)));
    const routesOf = (server: Server) => routes.get(server) ?? [];
    const fast = await alternate(servers, bench.scale.rounds, async (server) => {
      const result = await steadyTraffic(bench, server, routesOf(server));
      bench.log(`  ${server.target}: ${Math.round(result.delivered / result.seconds)} delivered/s`);
      return result;
    });
    const paced = await alternate(servers, bench.scale.rounds, async (server) => {
      const result = await steadyTraffic(bench, server, routesOf(server), {
        pace: { perSecond: MESSAGES_PER_SECOND },
      });
      const { p50, p99 } = result.latency.message;
      bench.log(`  ${server.target}: p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`);
      return result;
    });
    const drains = await alternate(servers, DRAINS, async (server) => {
      const [recipient, ...senders] = await server.createUsers(1 + SENDERS);
      if (!recipient) throw new Error('no users were created');
      const result = await runJob(server, {
        kind: 'drain',
        senders,
        recipient,
        messages: BACKLOG,
        window: WINDOW,
        idsPerReceipt: MAX_IDS_PER_RECEIPT,
      });
      bench.log(`  ${server.target}: ${Math.round(result.messages / result.drainSeconds)} drained/s`);
      return result;
    });
    const perSecond = medians(fast, ({ delivered, seconds }) => delivered / seconds);
    const cpu = medians(fast, ({ delivered, serverCpuSeconds }) => (serverCpuSeconds * 1e6) / delivered);
    const p50 = medians(paced, ({ latency }) => latency.message.p50);
    const p99 = medians(paced, ({ latency }) => latency.message.p99);
    const drained = medians(drains, ({ messages, drainSeconds }) => messages / drainSeconds);
    return {
      rows: [
        {
          measure: 'accepted and delivered',
          unit: 'messages/s',
          values: perSecond,
          ...goal(perSecond, 'at least', 800),
        },
        { measure: 'the server’s own CPU time', unit: 'µs per message', values: cpu, ...goal(cpu, 'at most', 500) },
        { measure: 'send to arrival at 300/s, p50', unit: 'ms', values: p50, ...goal(p50, 'at most', 15) },
        { measure: 'send to arrival at 300/s, p99', unit: 'ms', values: p99, ...goal(p99, 'at most', 60) },
        {
          measure: 'drain of a backlog of 10,000, connect to last message',
          unit: 'messages/s',
          values: drained,
          ...goal(drained, 'at least', 5_000),
        },
        {
          measure: 'stored for an offline device',
          unit: 'messages/s',
          values: medians(drains, ({ messages, storeSeconds }) => messages / storeSeconds),
        },
      ],
      raw: { fast: [...fast], paced: [...paced], drains: [...drains] },
    };
  });
}

/** A limit for the mesh on real engines; none unless that was measured. */
function goal(values: Row['values'], which: 'at least' | 'at most', limit: number): Pick<Row, 'goal'> {
  const value = values['mesh-on-engines'];
  if (value === undefined) return {};
  const reached = which === 'at least' ? value >= limit : value <= limit;
  return { goal: { text: `on engines ${which} ${limit.toLocaleString('en')}`, reached } };
}
