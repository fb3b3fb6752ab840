import { type Bench, median, type Outcome, type Row } from '../bench.js';
import { startRouters } from '../targets.js';
import { pairs, steadyTraffic } from './steady.js';

const USERS = 200;
const COUNTS = [1, 2, 3];
const WITHIN = 0.15;

/** One, two and three routers behind one edge: what a message costs them, all together. */
export async function routers(bench: Bench): Promise<Outcome> {
  const perCpuSecond: number[] = [];
  const raw: unknown[] = [];
  for (const count of COUNTS) {
    await using server = await startRouters(count, bench.engines?.env ?? {});
    const routes = pairs(await server.createUsers(USERS));
    const figures: number[] = [];
    for (let round = 0; round < bench.scale.rounds; round++) {
      const result = await steadyTraffic(bench, server, routes);
      figures.push(result.delivered / result.serverCpuSeconds);
      raw.push({ count, result });
    }
    perCpuSecond.push(median(figures));
    bench.log(`  ${count} routers: ${Math.round(median(figures))} delivered per CPU s of routers`);
  }
  const mean = perCpuSecond.reduce((sum, figure) => sum + figure, 0) / perCpuSecond.length;
  const reached = perCpuSecond.every((figure) => Math.abs(figure / mean - 1) <= WITHIN);
  const rows = perCpuSecond.map(
    (figure, at): Row => ({
      measure: `delivered with ${COUNTS[at]} of 1 to 3 routers`,
      unit: 'messages per CPU s of the routers',
      values: { 'mesh-on-engines': figure },
      goal: { text: 'all within 15% of their mean', reached },
    }),
  );
  return { rows, raw };
}
