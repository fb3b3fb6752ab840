import { alternate, type Bench, medians, type Outcome, type Rounds, type Row } from '../bench.js';
import type { Account, Route, TrafficResult } from '../jobs.js';
import type { Server } from '../targets.js';
import { deliveredPerCpuSecond, steadyTraffic } from './steady.js';

const RECIPIENTS = 20;
const DEVICES = 5;

/** Users with five devices each, all of which get and confirm every message. */
export async function fanOut(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'fan-out', async (servers) => {
    const routes = new Map<Server, Route[]>();
    for (const server of servers) routes.set(server, await routesOf(server));
    const rounds = await alternate(servers, bench.scale.rounds, async (server) => {
      const result = await steadyTraffic(bench, server, routes.get(server) ?? []);
      bench.log(`  ${server.target}: ${Math.round(result.copies / result.serverCpuSeconds)} copies per CPU s`);
      return result;
    });
    return { rows: rows(rounds), raw: [...rounds] };
  });
}

async function routesOf(server: Server): Promise<Route[]> {
  const accounts = await server.createUsers(2 * RECIPIENTS);
  return accounts.slice(RECIPIENTS).map((user, index) => ({
    sender: accounts[index] as Account,
    recipient: [user, ...server.addDevices(user, DEVICES - 1)],
  }));
}

function rows(rounds: Rounds<TrafficResult>): Row[] {
  const measure = `to ${DEVICES} devices of the recipient`;
  return [
    { measure, unit: 'messages per CPU s', values: medians(rounds, deliveredPerCpuSecond) },
    {
      measure,
      unit: 'copies per CPU s',
      values: medians(rounds, ({ copies, serverCpuSeconds }) => copies / serverCpuSeconds),
    },
    { measure, unit: 'copies/s', values: medians(rounds, ({ copies, seconds }) => copies / seconds) },
  ];
}
