import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import {
  DAMAGED,
  type DamagedEvent,
  type InboxRow,
  LmdbInboxStore,
  LmdbMessageLog,
  LmdbStatusStore,
  type LogRecord,
} from '@chatmesh/chat';
import { createLogger, Metrics } from '@chatmesh/mesh';
import { DamagedRow, LmdbEnvironment, rowOfBytes } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { until } from '../contract/engine.js';
import { eventFor, idOf, newKeys } from '../contract/message-log-witness.js';
import { newRecord, sound, updateOf } from '../contract/status-store-model.js';

let directory: string;
let environment: LmdbEnvironment;
let metrics: Metrics;
let lines: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-rows-'));
  open();
});
afterEach(async () => {
  await environment[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

function open(): void {
  lines = [];
  const destination = new Writable({
    write(line, _, done) {
      lines.push(String(line));
      done();
    },
  });
  metrics = new Metrics({ processMetrics: false });
  environment = LmdbEnvironment.open(directory, { metrics, logger: createLogger({ name: 'test', destination }) });
}

/** Closes the environment, alters the bytes of the file at each place of `needle`, and opens it again. */
async function damage(needle: string | Buffer, alter: (bytes: Buffer, at: number) => void): Promise<void> {
  await environment[Symbol.asyncDispose]();
  const file = join(directory, 'data.mdb');
  const bytes = readFileSync(file);
  let places = 0;
  for (let at = bytes.indexOf(needle); at >= 0; at = bytes.indexOf(needle, at + 1)) {
    alter(bytes, at);
    places++;
  }
  expect(places).toBeGreaterThan(0);
  writeFileSync(file, bytes);
  open();
}

const flip = (offset: number) => (bytes: Buffer, at: number) => {
  bytes[at + offset] = (bytes[at + offset] as number) ^ 1;
};

async function damagedRows(table: string): Promise<number> {
  const [, count] = new RegExp(`damaged_rows_total\\{table="${table}"\\} (\\d+)`).exec(await metrics.text()) ?? [];
  return Number(count ?? 0);
}

describe('a table', () => {
  test('tells a damaged row from a sound one, once, by file and key and never by what stands in it', async () => {
    const table = environment.textTable('names');
    await environment.write(() => {
      for (const key of ['a', 'b', 'c']) table.put(key, rowOfBytes(Buffer.from(`content of ${key}`)));
    });
    await damage('content of b', flip(3));
    const again = environment.textTable('names');
    for (let n = 0; n < 3; n++) expect(again.get('b')).toBeInstanceOf(DamagedRow);
    expect([again.get('a'), again.get('c')].map(String)).toEqual(['content of a', 'content of c']);
    const found: string[] = [];
    again.forEach({}, (key, value) => found.push(value instanceof DamagedRow ? `${key} is damaged` : key));
    expect(found).toEqual(['a', 'b is damaged', 'c']);
    expect(await damagedRows('names')).toBe(1);
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] as string)).toMatchObject({
      file: join(directory, 'data.mdb'),
      table: 'names',
      key: 'b',
    });
    expect(lines[0]).not.toContain('content');
  });

  test('tells a row that turns up under another key', async () => {
    const table = environment.textTable('names');
    await environment.write(() => {
      for (const key of ['first', 'other']) table.put(key, rowOfBytes(Buffer.from('content')));
    });
    await damage('other', flip(4));
    expect(environment.textTable('names').get('othes')).toBeInstanceOf(DamagedRow);
  });

  test('tells at the start what nobody reads', async () => {
    const table = environment.textTable('names');
    await environment.write(() => table.put('key', rowOfBytes(Buffer.alloc(10_000, 'text '))));
    await damage('text ', flip(2));
    expect(await damagedRows('names')).toBe(1);
  });
});

describe('an inbox with damaged rows', () => {
  const position = (n: number) => n.toString(16).padStart(13, '0');
  const rows: InboxRow[] = Array.from({ length: 40 }, (_, n) => ({
    userId: 'user',
    deviceId: 'device',
    position: position(n),
    payload: Buffer.from(`row ${position(n)} ${n % 10 < 3 ? 'to be damaged' : 'sound'}`),
  }));
  const sounds = rows.filter(({ payload }) => String(payload).endsWith('sound')).map((row) => row.position);
  let lost: InboxRow[];
  let store: LmdbInboxStore;

  beforeEach(async () => {
    await new LmdbInboxStore(environment).append(rows, 0);
    await damage('to be damaged', flip(1));
    lost = [];
    store = new LmdbInboxStore(environment, async (row) => void lost.push(row));
  });

  test('gives all the others, page by page: a page of damaged ones is not the end', async () => {
    const got: string[] = [];
    for (;;) {
      const page = await store.page('user', 'device', got.at(-1), 2);
      if (page.length === 0) break;
      got.push(...page.map((row) => row.position));
    }
    expect(got).toEqual(sounds);
  });

  test('hands each of them over once, and forgets it', async () => {
    for (let n = 0; n < 5; n++) await store.page('user', 'device', undefined, 100);
    expect(lost.map((row) => row.position).sort()).toEqual(
      rows.map((row) => row.position).filter((each) => !sounds.includes(each)),
    );
    await environment.settled();
    expect(await damagedRows('inbox.rows')).toBe(12);
    lost = [];
    await store.page('user', 'device', undefined, 100);
    expect(lost).toEqual([]);
  });

  test('keeps a row that was written again while its damage was dealt with', async () => {
    const slow = new LmdbInboxStore(environment, async () => {
      await store.append(rows, 0);
    });
    await slow.page('user', 'device', undefined, 100);
    await environment.settled();
    expect(await slow.page('user', 'device', undefined, 100)).toHaveLength(rows.length);
  });

  test('can be cleared', async () => {
    await store.clear('user', 'device');
    expect(await store.page('user', 'device', undefined, 100)).toEqual([]);
    expect(lost).toEqual([]);
  });
});

describe('a log with damaged rows', () => {
  async function consumed(log: LmdbMessageLog): Promise<{ records: LogRecord[]; lost: DamagedEvent[] }> {
    const records: LogRecord[] = [];
    const lost: DamagedEvent[] = [];
    const consumer = await log.consume((batch) => void records.push(...batch), {
      maxUnacknowledged: 1000,
      damaged: async (event) => void lost.push(event),
    });
    await until(() => log.backlog === consumer.unacknowledged, 'everything is handed out');
    consumer.acknowledge(records);
    await consumer.flushed();
    await consumer.close();
    return { records, lost };
  }

  const [key] = newKeys(1) as [string];
  const ids = ['first', 'second', 'third', 'fourth'].map((text) => `${text}-event`);

  async function publish(): Promise<string[]> {
    const log = LmdbMessageLog.open(environment, 'log');
    const positions = await log.publish(ids.map((id) => eventFor(key, id)));
    positions.push(...(await log.publish([eventFor(key, 'later-event')])));
    return positions;
  }

  test('loses one event of a group, and hands the others out', async () => {
    const positions = await publish();
    await damage('second-event', flip(2));
    const { records, lost } = await consumed(LmdbMessageLog.open(environment, 'log'));
    expect(records.map(({ event }) => idOf(event))).toEqual([
      'first-event',
      'third-event',
      'fourth-event',
      'later-event',
    ]);
    expect(records.map(({ position }) => position)).toEqual(positions.filter((_, i) => i !== 1));
    expect(lost.map(({ position }) => position)).toEqual([positions[1]]);
    await environment.settled();
    expect(LmdbMessageLog.open(environment, 'log').backlog).toBe(0);
  });

  test('loses a group whose head is damaged as one, and hands the next ones out', async () => {
    const positions = await publish();
    // The first event's bytes follow the head: there are 8 bytes for each of the four.
    let before = 0;
    environment.sequence('log.entries').forEach({ limit: 1 }, (_, row) => {
      before = row instanceof DamagedRow ? 0 : row.indexOf('first-event');
    });
    await damage('first-event', flip(-before));
    const { records, lost } = await consumed(LmdbMessageLog.open(environment, 'log'));
    expect(records.map(({ event }) => idOf(event))).toEqual(['later-event']);
    expect(lost.map(({ position }) => position)).toEqual([positions[0]]);
  });

  test('gives no position twice where it has lost count', async () => {
    const positions = await publish();
    const next = Buffer.alloc(8);
    next.writeDoubleLE(Number.parseInt(positions.at(-1) as string, 16) + 1);
    await damage(next, flip(0));
    const log = LmdbMessageLog.open(environment, 'log');
    const [position] = await log.publish([eventFor(key, 'new-event')]);
    expect(position && position > (positions.at(-1) as string)).toBe(true);
    expect(await damagedRows('log.meta')).toBe(1);
    const { records } = await consumed(log);
    expect(records.map(({ event }) => idOf(event))).toEqual([...ids, 'later-event', 'new-event']);
  });
});

describe('status records with damaged rows', () => {
  const records = Array.from({ length: 24 }, (_, n) =>
    newRecord(1_000 + n, { fingerprint: String(n).padStart(32, '0') }),
  );
  const ids = records.map(({ serverMessageId }) => serverMessageId);
  const victim = records[10] as (typeof records)[number];
  /** Eight rows share a checksum. */
  const lost = ids.slice(8, 16);

  beforeEach(() => new LmdbStatusStore(environment).accept(records));

  const expectDamaged = async (store: LmdbStatusStore) => {
    const found = await store.get(ids);
    expect(ids.filter((_, i) => found[i] === DAMAGED)).toEqual(lost);
    expect(found.every((answer, i) => answer === DAMAGED || answer?.acceptedAtMs === 1_000 + i)).toBe(true);
  };

  test('tell of those that share its checksum that they are damaged, and give the others', async () => {
    await damage(`\t${victim.fingerprint}`, flip(4));
    await expectDamaged(new LmdbStatusStore(environment));
  });

  test('tell it too where the row is wiped out with its id', async () => {
    // The id stands also in front of the rows.
    await damage(`${victim.serverMessageId}\t`, (bytes, at) => bytes.fill(0, at, at + 120));
    await expectDamaged(new LmdbStatusStore(environment));
  });

  test('get another record with the next acceptance of the message, and none by an update that knows nothing else', async () => {
    await damage(`\t${victim.fingerprint}`, flip(4));
    const store = new LmdbStatusStore(environment);
    await store.update([updateOf(victim, { deliveredAtMs: 5_000 })]);
    await expectDamaged(store);
    await store.accept([victim]);
    expect((await store.get([victim.serverMessageId])).map((answer) => sound(answer)?.fingerprint)).toEqual([
      victim.fingerprint,
    ]);
  });

  test('expire all the same', async () => {
    await damage(`\t${victim.fingerprint}`, flip(4));
    const store = new LmdbStatusStore(environment);
    while (await store.expire(2_000));
    expect(await store.get(ids)).toEqual(ids.map(() => undefined));
  });
});
