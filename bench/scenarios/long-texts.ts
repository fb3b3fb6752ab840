import { alternate, type Bench, medians, type Outcome, type Row } from '../bench.js';
import type { DrainResult } from '../jobs.js';
import { drained } from './drain.js';
import { pairs, steadyTraffic } from './steady.js';

const MESSAGES = 5_000;
const USERS = 50;
/** Of the rate of small texts. */
const DRAIN_GOAL = 1 / 3;

/** Drains, and traffic as fast as the server goes, with texts of 4 KB beside small ones. */
export async function longTexts(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'long-texts', async (servers) => {
    const drains = (long: boolean) =>
      alternate(servers, bench.scale.rounds, async (server) => {
        const result = await drained(server, MESSAGES, long);
        const bytes = long ? '4 KB' : 'small';
        bench.log(`  ${server.target}: ${Math.round(result.messages / result.drainSeconds)} ${bytes} texts drained/s`);
        return result;
      });
    const [small, long] = [await drains(false), await drains(true)];
    const flood = await alternate(servers, 1, async (server) => {
      const routes = pairs(await server.createUsers(USERS));
      const result = await steadyTraffic(bench, server, routes, { longTexts: true });
      bench.log(`  ${server.target}: ${Math.round(result.delivered / result.seconds)} 4 KB texts delivered/s`);
      return result;
    });
    const rate = ({ messages, drainSeconds }: DrainResult) => messages / drainSeconds;
    const [smallRates, longRates] = [medians(small, rate), medians(long, rate)];
    const share = (longRates.mesh ?? Number.NaN) / (smallRates.mesh ?? Number.NaN);
    const rows: Row[] = [
      { measure: `drain of ${MESSAGES} small texts`, unit: 'messages/s', values: smallRates },
      {
        measure: `drain of ${MESSAGES} texts of 4 KB`,
        unit: 'messages/s',
        values: longRates,
        ...(longRates.mesh !== undefined && {
          goal: { text: 'a third of small texts', reached: share >= DRAIN_GOAL },
        }),
      },
      {
        measure: 'accepted and delivered, texts of 4 KB',
        unit: 'messages/s',
        values: medians(flood, ({ delivered, seconds }) => delivered / seconds),
      },
    ];
    return { rows, raw: { small: [...small], long: [...long], flood: [...flood] } };
  });
}
