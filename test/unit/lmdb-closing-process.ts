// A program that uses the LMDB stores while their environment closes, and says on stdout, as JSON, what each use came to.
// A use begins some microtasks after the last write of the environment has been answered: each of its turns has its chance.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { LmdbInboxStore, LmdbMessageLog, LmdbStatusStore, type LogRecord } from '@chatmesh/chat';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { eventFor } from '../contract/message-log-witness.js';
import { newRecord, updateOf } from '../contract/status-store-model.js';

const WEEKS_LATER_MS = 1e12;
const MICROTASKS = 20;

interface Stores {
  readonly environment: LmdbEnvironment;
  readonly inbox: LmdbInboxStore;
  readonly statuses: LmdbStatusStore;
  readonly log: LmdbMessageLog;
}

const row = (position: string) => ({ userId: 'u', deviceId: 'd', position, payload: Buffer.from('waits') });
/** The status store reads what it is asked for from its tables: in a life of its own it has nothing at hand. */
const record = newRecord(1);

const uses: Record<string, (stores: Stores) => Promise<unknown>> = {
  page: ({ inbox }) => inbox.page('u', 'd', undefined, 100),
  aged: ({ inbox }) => inbox.aged(WEEKS_LATER_MS),
  append: ({ inbox }) => inbox.append([row('2')], 0),
  remove: ({ inbox }) => inbox.remove('u', 'd', ['1']),
  clear: ({ inbox }) => inbox.clear('u', 'd'),
  forgetWeeks: ({ inbox }) => inbox.forgetWeeks(WEEKS_LATER_MS),
  get: ({ statuses }) => statuses.get([record.serverMessageId]),
  getUnknown: ({ statuses }) => statuses.get([newRecord(2).serverMessageId]),
  accept: ({ statuses }) => statuses.accept([newRecord(3)]),
  update: ({ statuses }) => statuses.update([updateOf(record, { deliveredAtMs: 5 })]),
  expire: ({ statuses }) => statuses.expire(WEEKS_LATER_MS),
  publish: ({ log }) => log.publish([eventFor('u')]),
  async consume({ log }) {
    const records: LogRecord[] = [];
    const consumer = await log.consume((batch) => void records.push(...batch), { maxUnacknowledged: 10 });
    // What waits is read in a turn of its own.
    await turn();
    await turn();
    consumer.acknowledge(records);
    await consumer.flushed();
  },
};

const root = mkdtempSync(join(tmpdir(), 'chatmesh-closing-'));
const strays: string[] = [];
process.on('uncaughtException', (error) => strays.push(`uncaught ${error}`));
process.on('unhandledRejection', (error) => strays.push(`unhandled ${error}`));

function open(directory: string): Stores {
  const environment = LmdbEnvironment.open(directory);
  return {
    environment,
    inbox: new LmdbInboxStore(environment),
    statuses: new LmdbStatusStore(environment),
    log: LmdbMessageLog.open(environment, 'log'),
  };
}

async function outcome(use: () => Promise<unknown>): Promise<string> {
  try {
    await use();
    return 'done';
  } catch (error) {
    const { kind, message } = error as { kind?: string; message: string };
    return `${kind}: ${message}`;
  }
}

const outcomes: Record<string, string[]> = {};
for (const [name, use] of Object.entries(uses)) {
  const directory = join(root, name);
  const before = open(directory);
  await Promise.all([before.inbox.append([row('1')], 0), before.statuses.accept([record])]);
  await before.log.publish([eventFor('u')]);
  await before.environment[Symbol.asyncDispose]();
  const results: string[] = [];
  for (let microtasks = 0; microtasks <= MICROTASKS; microtasks++) {
    const stores = open(directory);
    const written = stores.inbox.append([row('1')], 0);
    const closed = stores.environment[Symbol.asyncDispose]();
    await written;
    for (let n = 0; n < microtasks; n++) await undefined;
    results.push(await outcome(() => use(stores)));
    await closed;
    await turn();
  }
  outcomes[name] = results;
}
rmSync(root, { recursive: true, force: true });
console.log(JSON.stringify({ outcomes, strays }));
