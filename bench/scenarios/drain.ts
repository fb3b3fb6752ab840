import { alternate, type Bench, medians, type Outcome, type Rounds, type Row, ratioGoal } from '../bench.js';
import type { DrainResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import type { Server } from '../targets.js';
import { MAX_IDS_PER_RECEIPT, WINDOW } from './steady.js';

const SENDERS = 10;
const MESSAGES = 10_000;

/** 10,000 messages stored for an offline device, which then connects and reads them. */
export async function drain(bench: Bench): Promise<Outcome> {
  return bench.withServers(bench.reporting, 'drain', async (servers) => {
    const results = await alternate(servers, bench.scale.drainRounds, async (server) => {
      const result = await drained(server, MESSAGES);
      bench.log(`  ${server.target}: ${Math.round(result.messages / result.drainSeconds)} drained/s`);
      return result;
    });
    return { rows: rows(results), raw: [...results] };
  });
}

/** Stores messages for a new offline user, who then connects and reads them. */
export async function drained(server: Server, messages: number, longTexts = false): Promise<DrainResult> {
  const [recipient, ...senders] = await server.createUsers(1 + SENDERS);
  if (!recipient) throw new Error('no users were created');
  return runJob(server, {
    kind: 'drain',
    senders,
    recipient,
    messages,
    window: WINDOW,
    idsPerReceipt: MAX_IDS_PER_RECEIPT,
    longTexts,
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
