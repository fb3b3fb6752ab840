import { alternate, type Bench, medians, type Outcome, type Rounds, type Row, ratioGoal } from '../bench.js';
import type { DrainResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import { MAX_IDS_PER_RECEIPT, WINDOW } from './steady.js';

const SENDERS = 10;
const MESSAGES = 10_000;

/** 10,000 messages stored for an offline device, which then connects and reads them. */
export async function drain(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'drain', async (servers) => {
    const results = await alternate(servers, bench.scale.drainRounds, async (server) => {
      const [recipient, ...senders] = await server.createUsers(1 + SENDERS);
      if (!recipient) throw new Error('no users were created');
      const result = await runJob(server, {
        kind: 'drain',
        senders,
        recipient,
        messages: MESSAGES,
        window: WINDOW,
        idsPerReceipt: MAX_IDS_PER_RECEIPT,
      });
      bench.log(`  ${server.target}: ${Math.round(result.messages / result.drainSeconds)} drained/s`);
      return result;
    });
    return { rows: rows(results), raw: [...results] };
  });
}

function rows(results: Rounds<DrainResult>): Row[] {
  const drained = medians(results, ({ messages, drainSeconds }) => messages / drainSeconds);
  return [
    {
      measure: 'drain of a backlog of 10,000, connect to last message',
      unit: 'messages/s',
      values: drained,
      ...ratioGoal(drained, { atLeast: 0.2 }),
    },
    {
      measure: 'stored for an offline device',
      unit: 'messages/s',
      values: medians(results, ({ messages, storeSeconds }) => messages / storeSeconds),
    },
    {
      measure: 'stored for an offline device',
      unit: 'messages per CPU s',
      values: medians(results, ({ messages, storeServerCpuSeconds }) => messages / storeServerCpuSeconds),
    },
  ];
}
