import { randomUUID } from 'node:crypto';
import type { InboxRow, InboxStore, Position } from '@chatmesh/chat';
import { CassandraInboxStore } from '@chatmesh/chat/scylla';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { newSeed, numbers, type Opened } from '../contract/engine.js';
import { inboxStoreContract } from '../contract/inbox-store.js';
import { cassandraInboxStore, scyllaConfig } from './cassandra-engine.js';

inboxStoreContract('Cassandra', cassandraInboxStore);

const WEEK_MS = 7 * 24 * 3600 * 1000;
/** What a week is over for depends on the clock. */
const NOW = Date.now();
const PAGE = 256;

/** As long as positions of a Pulsar topic with an epoch. */
const at = (n: number): Position => `01-0000000c-${n.toString(16).padStart(16, '0')}`;

describe('the InboxStore on Cassandra', () => {
  let userId = randomUUID();
  const deviceId = randomUUID();
  let place: Awaited<ReturnType<typeof cassandraInboxStore.place>>;
  let opened: Opened<InboxStore>[];

  beforeEach(async () => {
    place = await cassandraInboxStore.place();
    opened = [];
  });

  afterEach(async () => {
    for (const { close } of opened) await close();
    await place.remove();
  });

  async function open(): Promise<InboxStore> {
    const store = await cassandraInboxStore.open(place.location);
    opened.push(store);
    return store.store;
  }

  const rows = (ns: readonly number[], content = 'x'): InboxRow[] =>
    ns.map((n) => ({ userId, deviceId, position: at(n), payload: Buffer.from(`${content} ${n}`) }));

  const numbersOf = (page: readonly InboxRow[]) => page.map((row) => Number.parseInt(row.position.slice(12), 16));

  async function everything(store: InboxStore, limit = PAGE): Promise<number[]> {
    const all: number[] = [];
    let after: Position | undefined;
    for (;;) {
      const page = await store.page(userId, deviceId, after, limit);
      if (page.length === 0) return all;
      all.push(...numbersOf(page));
      after = page.at(-1)?.position;
    }
  }

  /** The most tombstones that any read of inboxes has met, as Cassandra counts them. */
  async function mostTombstones(): Promise<number> {
    const cassandra = await Cassandra.connect(scyllaConfig(place.location));
    try {
      const [row] = await cassandra.read<{ max: number }>(
        `SELECT "max" FROM system_views.tombstones_per_read WHERE keyspace_name = ? AND table_name = 'inbox'`,
        [place.location],
      );
      return Number(row?.max);
    } finally {
      await cassandra[Symbol.asyncDispose]();
    }
  }

  test('10,000 rows that a drain reads and confirms leave hardly a tombstone to any page, then or later', async () => {
    const below = numbers(newSeed('drain of 10,000 rows'));
    const store = await open();
    for (let n = 0; n < 10_000; n += 1000) {
      const ns = Array.from({ length: 1000 }, (_, i) => n + i);
      await store.append(rows(ns), NOW + Math.floor(n / 4000) * WEEK_MS);
    }
    const removals = new Set<Promise<void>>();
    let drained = 0;
    let cursor: Position | undefined;
    const unconfirmed: Position[] = [];
    /** Confirmations come in bunches, nearly in order; several removals are on their way at once. */
    const confirm = async (left: number) => {
      while (unconfirmed.length > left) {
        const bunch = unconfirmed.splice(0, 1 + below(64));
        if (below(4) === 0 && bunch.length > 1) unconfirmed.unshift(...bunch.splice(below(bunch.length - 1), 1));
        const removal = store.remove(userId, deviceId, bunch);
        removals.add(removal);
        void removal.finally(() => removals.delete(removal));
        if (removals.size >= 3) await Promise.race(removals);
      }
    };
    for (;;) {
      const page = await store.page(userId, deviceId, cursor, PAGE - unconfirmed.length);
      if (page.length === 0) break;
      cursor = page.at(-1)?.position;
      drained += page.length;
      unconfirmed.push(...page.map((row) => row.position));
      await confirm(PAGE / 2);
    }
    await confirm(0);
    await Promise.all(removals);
    expect(drained).toBe(10_000);
    expect(await everything(store)).toEqual([]);
    // Another router begins at the start.
    expect(await everything(await open())).toEqual([]);
    expect(await mostTombstones()).toBeLessThan(40);
  });

  test('a row that another router was still writing when its neighbours were removed stays', async () => {
    const [old, owner] = [await open(), await open()];
    await old.append(rows([1, 2, 3, 5, 6, 7]), NOW);
    const page = await owner.page(userId, deviceId, undefined, PAGE);
    expect(numbersOf(page)).toEqual([1, 2, 3, 5, 6, 7]);
    await old.append(rows([4]), NOW);
    await owner.remove(
      userId,
      deviceId,
      page.map((row) => row.position),
    );
    expect(await everything(owner)).toEqual([4]);
    expect(await everything(old)).toEqual([4]);
  });

  test('rows that were appended again in another week are removed from both', async () => {
    const store = await open();
    await store.append(rows([1, 2, 3]), NOW);
    await (await open()).append(rows([2, 3, 4]), NOW + WEEK_MS);
    expect(await everything(store, 2)).toEqual([1, 2, 3, 4]);
    await store.remove(userId, deviceId, [at(2)]);
    // This one has not read anything.
    await (await open()).remove(userId, deviceId, [at(3)]);
    expect(await everything(await open())).toEqual([1, 4]);
  });

  test('a backlog of a year is paged in order', async () => {
    const store = await open();
    const expected: number[] = [];
    for (let week = 0; week < 53; week++) {
      const ns = Array.from({ length: 7 }, (_, i) => week * 7 + i);
      expected.push(...ns);
      await store.append(rows(ns), NOW + (week - 52) * WEEK_MS);
    }
    const reader = await open();
    expect(await everything(reader, 32)).toEqual(expected);
    await reader.remove(userId, deviceId, expected.map(at));
    expect(await everything(reader)).toEqual([]);
    await reader.append(rows([9]), NOW);
    expect(await everything(await open())).toEqual([9]);
  });

  test('a week that is over and empty is looked into no more', async () => {
    const store = await open();
    for (const weeks of [0, 1, 4]) await store.append(rows([weeks]), NOW + weeks * WEEK_MS);
    await store.remove(userId, deviceId, [at(0)]);
    const cassandra = await Cassandra.connect(scyllaConfig(place.location));
    try {
      const later = new CassandraInboxStore(cassandra, { now: () => NOW + 5 * WEEK_MS });
      expect(await everything(later)).toEqual([1, 4]);
      const weeks = () => cassandra.read('SELECT week FROM inbox_device_weeks', []);
      while ((await weeks()).length > 2);
      expect(await everything(later)).toEqual([1, 4]);
    } finally {
      await cassandra[Symbol.asyncDispose]();
    }
  });

  test('pages that overtake one another while rows are written leave the next pages and removals complete', async () => {
    const seed = newSeed('pages that overtake one another');
    const n = fc.nat(24);
    const ns = fc.array(n, { minLength: 1, maxLength: 6 });
    const round = fc.record({
      appends: fc.array(fc.record({ ns, week: fc.nat(2) }), { minLength: 1, maxLength: 3 }),
      pages: fc.array(fc.record({ after: n, limit: fc.integer({ min: 1, max: 9 }) }), { minLength: 2, maxLength: 4 }),
      after: n,
      removed: ns,
    });
    const [store, other] = [await open(), await open()];
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 2, maxLength: 4 }), async (rounds) => {
        userId = randomUUID();
        const model = new Set<number>();
        const expected = (after = -1) => [...model].filter((n) => n > after).sort((a, b) => a - b);
        for (const { appends, pages, after, removed } of rounds) {
          for (const n of appends.flatMap(({ ns }) => ns)) model.add(n);
          await Promise.all([
            ...appends.map(({ ns, week }) => store.append(rows(ns), NOW + week * WEEK_MS)),
            ...pages.map((page) => store.page(userId, deviceId, at(page.after), page.limit)),
          ]);
          expect(numbersOf(await store.page(userId, deviceId, at(after), PAGE))).toEqual(expected(after));
          for (const n of removed) model.delete(n);
          await store.remove(userId, deviceId, removed.map(at));
          expect(await everything(other)).toEqual(expected());
        }
      }),
      { seed, numRuns: 200 },
    );
  });

  test('any history of appends, pages and removals, some on their way at once, is what a set of rows says', async () => {
    const seed = newSeed('history of an inbox');
    const n = fc.nat(24);
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          kind: fc.constant('append' as const),
          ns: fc.array(n, { minLength: 1, maxLength: 6 }),
          week: fc.nat(2),
        }),
      },
      { weight: 5, arbitrary: fc.record({ kind: fc.constant('remove' as const), ns: fc.array(n, { maxLength: 12 }) }) },
      {
        weight: 4,
        arbitrary: fc.record({
          kind: fc.constant('page' as const),
          after: fc.option(n),
          limit: fc.integer({ min: 1, max: 9 }),
        }),
      },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('move' as const) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('settle' as const) }) },
    );
    const routers = [await open(), await open()];
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 30 }), async (steps) => {
        const [first, other] = routers as [InboxStore, InboxStore];
        userId = randomUUID();
        let store = first;
        const model = new Set<number>();
        let writes: Promise<void>[] = [];
        let touched = new Set<number>();
        const settle = async () => {
          await Promise.all(writes);
          writes = [];
          touched = new Set();
        };
        for (const step of steps) {
          if (step.kind === 'settle') await settle();
          else if (step.kind === 'move') {
            // The new owner reads the inbox from its start, as a drain does.
            await settle();
            store = store === first ? other : first;
            expect(await everything(store, 5)).toEqual([...model].sort((a, b) => a - b));
          } else if (step.kind === 'page') {
            const { after, limit } = step;
            if (touched.size > 0 && limit % 2 === 0) {
              // What is on its way may be on the page or not: the read only has to keep the store's own books right.
              writes.push(store.page(userId, deviceId, after === null ? undefined : at(after), limit).then(() => {}));
              continue;
            }
            await settle();
            const page = await store.page(userId, deviceId, after === null ? undefined : at(after), limit);
            const expected = [...model].filter((n) => after === null || n > after).sort((a, b) => a - b);
            expect(numbersOf(page)).toEqual(expected.slice(0, limit));
          } else {
            // Writes of one row keep their order; others may overtake each other.
            if (step.ns.some((n) => touched.has(n))) await settle();
            for (const n of step.ns) touched.add(n);
            if (step.kind === 'append') {
              for (const n of step.ns) model.add(n);
              writes.push(store.append(rows(step.ns), NOW + step.week * WEEK_MS));
            } else {
              for (const n of step.ns) model.delete(n);
              writes.push(store.remove(userId, deviceId, step.ns.map(at)));
            }
          }
        }
        await settle();
        const expected = [...model].sort((a, b) => a - b);
        expect(await everything(store, 4)).toEqual(expected);
        expect(await everything(store === first ? other : first, 4)).toEqual(expected);
      }),
      { seed, numRuns: 200 },
    );
  });
});
