// A program that puts one LMDB store through an outage of its disk, which is full for a time, and says on stdout, as JSON,
// what the store answered.
import { setTimeout as sleep } from 'node:timers/promises';
import { LmdbInboxStore, LmdbMessageLog, LmdbStatusStore, type LogRecord, type StatusRecord } from '@chatmesh/chat';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { eventFor, idOf } from '../contract/message-log-witness.js';
import { newRecord, sound, updateOf } from '../contract/status-store-model.js';
import { SmallDisk } from './lmdb-small-disk.js';

const [mount = '', scenario = ''] = process.argv.slice(2);
const small = new SmallDisk(mount);
const location = small.directory;
const disk = { fails: () => small.fill(4), works: () => small.makeRoom() };

const outcome = (promise: Promise<unknown>) =>
  promise.then(
    () => 'done',
    ({ kind }) => kind as string,
  );

/** What a log hands out until nothing has come for a while. */
async function handedOut(log: LmdbMessageLog): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  await log.consume((batch) => void records.push(...batch), { maxUnacknowledged: 1000 });
  for (let before = -1; before < records.length; await sleep(50)) before = records.length;
  return records;
}

const scenarios: Record<string, () => Promise<unknown>> = {
  async log() {
    let environment = LmdbEnvironment.open(location);
    let log = LmdbMessageLog.open(environment, 'log');
    const key = 'a';
    const records: LogRecord[] = [];
    const consumer = await log.consume((batch) => void records.push(...batch), { maxUnacknowledged: 1000 });
    await log.publish(['1', '2', '3'].map((id) => eventFor(key, id)));
    await log.publish(['4'].map((id) => eventFor(key, id)));
    while (records.length < 4) await sleep(5);
    disk.fails();
    const refused = await Promise.all(['5', '6'].map((id) => outcome(log.publish([eventFor(key, id)]))));
    const writable = [log.writable];
    // 4 is an entry of its own, 1 is a part of one.
    consumer.acknowledge(records.filter(({ event }) => ['1', '4'].includes(idOf(event))));
    await sleep(500);
    disk.works();
    const accepted = await outcome(log.publish([eventFor(key, '7')]));
    writable.push(log.writable);
    while (records.length < 5) await sleep(5);
    await sleep(1000);
    const seen = records.map(({ event }) => idOf(event));
    // As after the death of a process: nothing is written on the way out.
    await environment[Symbol.asyncDispose]();
    environment = LmdbEnvironment.open(location);
    log = LmdbMessageLog.open(environment, 'log');
    return { refused, accepted, writable, seen, again: (await handedOut(log)).map(({ event }) => idOf(event)) };
  },

  async inbox() {
    const environment = LmdbEnvironment.open(location);
    const store = new LmdbInboxStore(environment);
    const row = { userId: 'a', deviceId: 'b', position: '1', payload: Buffer.from('x') };
    disk.fails();
    const refused = await outcome(store.append([row], 0));
    const during = await store.page('a', 'b', undefined, 10);
    disk.works();
    const accepted = await outcome(store.append([row], 0));
    const after = await store.page('a', 'b', undefined, 10);
    return { refused, during: during.length, accepted, after: after.length, aged: await store.aged(Date.now()) };
  },

  async status() {
    let environment = LmdbEnvironment.open(location);
    let store = new LmdbStatusStore(environment);
    const [a, b] = [newRecord(1), newRecord(2)];
    const of = async () => {
      const [ofA, ofB] = (await store.get([a.serverMessageId, b.serverMessageId])).map(sound);
      return [ofA?.deliveredAtMs, ofA?.readAtMs, ofB !== undefined];
    };
    await store.accept([a]);
    disk.fails();
    // Two groups on their way: the second builds on the first.
    const first = outcome(store.update([updateOf(a, { deliveredAtMs: 10 })]));
    await new Promise((resolve) => setImmediate(resolve));
    const second = outcome(store.update([updateOf(a, { readAtMs: 20 })]));
    const refused = await Promise.all([first, second, outcome(store.accept([b])), outcome(store.accept([b]))]);
    const during = await of();
    disk.works();
    const accepted = await outcome(store.update([updateOf(a, { deliveredAtMs: 30 })]));
    await environment[Symbol.asyncDispose]();
    environment = LmdbEnvironment.open(location);
    store = new LmdbStatusStore(environment);
    return { refused, during, accepted, after: await of() };
  },

  /** A write that is on its way, part of a merge, and built upon by another one finds no room. */
  async large() {
    let environment = LmdbEnvironment.open(location);
    let store = new LmdbStatusStore(environment);
    const records = Array.from({ length: 70_000 }, (_, n) => newRecord(n + 1, { fingerprint: 'f'.repeat(500) }));
    const found = async () =>
      (await store.get(records.map((record) => record.serverMessageId))).filter((record) => record !== undefined)
        .length;
    small.fill(17);
    const first = outcome(store.accept(records));
    // The write is on its way after one turn; in a second one its failure may already be told.
    await new Promise((resolve) => setImmediate(resolve));
    const before = await found();
    const second = outcome(store.update([updateOf(records[0] as StatusRecord, { readAtMs: 5 })]));
    const refused = await Promise.all([first, second]);
    const during = await found();
    disk.works();
    const accepted = await outcome(store.accept(records.slice(0, 100)));
    const after = [await found()];
    await environment[Symbol.asyncDispose]();
    environment = LmdbEnvironment.open(location);
    store = new LmdbStatusStore(environment);
    after.push(await found());
    return { before, refused, during, accepted, after };
  },

  /** The disk fails time and again while many records are merged into the index. */
  async merge() {
    let environment = LmdbEnvironment.open(location);
    let store = new LmdbStatusStore(environment);
    const known = new Map<string, number>();
    let refused = 0;
    const accept = async (count: number) => {
      const records = Array.from({ length: count }, (_, n) => newRecord(known.size + n + 1));
      if ((await outcome(store.accept(records))) !== 'done') refused++;
      else for (const { serverMessageId, acceptedAtMs } of records) known.set(serverMessageId, acceptedAtMs);
    };
    // As many as are merged at a time, and some.
    while (known.size < 65_000) await accept(1000);
    for (let round = 0; round < 60; round++) {
      await accept(100);
      if (round % 4 === 0) disk.fails();
      const ids = [...known.keys()];
      const updated = [...ids.slice(round * 1000, round * 1000 + 200), ...ids.slice(-200)];
      await outcome(
        store.update(
          updated.map((serverMessageId) => ({ ...updateOf(newRecord(0), { readAtMs: 1 }), serverMessageId })),
        ),
      );
      if (round % 4 === 1) disk.works();
    }
    disk.works();
    const missing = async () =>
      (await store.get([...known.keys()]))
        .map(sound)
        .filter((record) => record?.acceptedAtMs !== known.get(record?.serverMessageId ?? '')).length;
    const before = await missing();
    await environment[Symbol.asyncDispose]();
    environment = LmdbEnvironment.open(location);
    store = new LmdbStatusStore(environment);
    return { refused: refused > 0, before, after: await missing(), many: known.size > 65_536 };
  },
};

process.on('unhandledRejection', (reason) => {
  console.log(JSON.stringify({ unhandled: String(reason) }));
  process.exit(1);
});
console.log(JSON.stringify(await scenarios[scenario]?.()));
process.exit(0);
