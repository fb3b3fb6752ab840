import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { InboxRow, InboxStore, Position } from '@chatmesh/chat';
import { CachedInboxStore } from '@chatmesh/chat/redis';
import { createLogger } from '@chatmesh/mesh';
import type { RedisClient } from '@chatmesh/mesh/redis';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { newSeed, numbers, type Opened, until } from '../contract/engine.js';
import { inboxStoreContract } from '../contract/inbox-store.js';
import { lmdbInboxStore } from '../contract/lmdb-engines.js';
import { cachedInboxStore, redisClient } from './redis-engines.js';
import { RedisServer } from './redis-server.js';

inboxStoreContract('LMDB behind Redis', cachedInboxStore);

const NOW = Date.UTC(2026, 2, 1);
const MAX_ROWS = 12;
const at = (n: number): Position => n.toString(16).padStart(13, '0');
const logger = createLogger({ name: 'test', level: 'silent' });

describe('the cache of inboxes', () => {
  let server: RedisServer;
  let place: Awaited<ReturnType<typeof lmdbInboxStore.place>>;
  let inner: Opened<InboxStore>;
  let redis: RedisClient;
  let store: CachedInboxStore;
  const clients: RedisClient[] = [];
  /** Which router owns the users, and since when. */
  let tenure: number;
  const user = randomUUID();
  const device = randomUUID();

  beforeEach(async () => {
    server = await RedisServer.start();
    place = await lmdbInboxStore.place();
    inner = await lmdbInboxStore.open(place.location);
    tenure = 1;
    ({ redis, store } = await newRouter());
  });
  afterEach(async () => {
    server.resume();
    await store[Symbol.asyncDispose]();
    for (const client of clients.splice(0)) await client[Symbol.asyncDispose]();
    await inner.close();
    await server.stop();
    await place.remove();
  });

  async function newRouter(): Promise<{ redis: RedisClient; store: CachedInboxStore }> {
    const client = await redisClient({ REDIS_URL: server.url, REDIS_PREFIX: 'test:' });
    clients.push(client);
    const options = { redis: client, maxRows: MAX_ROWS, tenureOf: () => tenure, logger };
    return { redis: client, store: new CachedInboxStore(inner.store, options) };
  }

  const row = (n: number, deviceId: string = device, bytes = n % 300): InboxRow => ({
    userId: user,
    deviceId,
    position: at(n),
    payload: Buffer.alloc(bytes, `\0${n}|`),
  });
  const append = (...ns: number[]) =>
    store.append(
      ns.map((n) => row(n)),
      NOW,
    );
  const positions = (rows: readonly InboxRow[]) => rows.map(({ position }) => Number.parseInt(position, 16));
  const page = async (after?: number, limit = 100) =>
    positions(await store.page(user, device, after === undefined ? undefined : at(after), limit));
  /** Whether the next page from the start comes from Redis. */
  const hit = async (after?: number) => {
    const before = store.hits;
    await page(after);
    return store.hits > before;
  };
  /** Establishes that the inbox is empty, as the end of a drain does. */
  const drained = async () => {
    expect(await page()).toEqual([]);
    await until(() => redis.ready, 'Redis answers');
  };

  test('serves what is appended after a drain, in order and whole', async () => {
    await drained();
    await append(3, 1, 2);
    expect(await hit()).toBe(true);
    const rows = await store.page(user, device, undefined, 100);
    expect(rows.map((r) => ({ ...r, payload: Buffer.from(r.payload) }))).toEqual([row(1), row(2), row(3)]);
    expect(positions(await store.page(user, device, at(1), 1))).toEqual([2]);
  });

  test('never says that an inbox is empty', async () => {
    await drained();
    await append(1);
    await store.remove(user, device, [at(1)]);
    const before = store.hits;
    expect(await page()).toEqual([]);
    expect(store.hits).toBe(before);
  });

  test('lets the oldest go, and serves the rest once what it lacks was read from the store', async () => {
    await drained();
    await append(...Array.from({ length: MAX_ROWS + 5 }, (_, i) => i));
    expect(await hit()).toBe(false);
    await append(100);
    expect(await page(20)).toEqual([100]);
    expect(await hit(8)).toBe(true);
    expect(await page(8)).toEqual([9, 10, 11, 12, 13, 14, 15, 16, 100]);
  });

  test('does not keep rows that are large, and serves what is newer', async () => {
    await drained();
    await append(1);
    await store.append([row(2, device, 20_000), row(3)], NOW);
    expect(await page()).toEqual([1, 2, 3]);
    expect(await hit(2)).toBe(true);
    expect(await page(2)).toEqual([3]);
  });

  test.each([
    ['Redis is emptied', async () => void (await server.command('FLUSHALL'))],
    ['Redis evicts it', async () => void (await server.command('DEL', `test:inbox:{${user}}:${device}`))],
    [
      'the connection is lost',
      async () => {
        await server.command('CLIENT', 'KILL', 'TYPE', 'normal');
        await until(() => !redis.ready, 'it is lost');
        await until(() => redis.ready, 'it is back');
      },
    ],
    [
      'Redis restarts',
      async () => {
        await server.kill();
        await until(() => !redis.ready, 'it is gone');
        await append(7);
        await server.restart();
        await until(() => redis.ready, 'it is back');
      },
    ],
    ['another router has the user', async () => void tenure++],
    [
      'a write to Redis fails',
      async () => {
        await server.command('CONFIG', 'SET', 'min-replicas-to-write', '1');
        await append(7);
        await server.command('CONFIG', 'SET', 'min-replicas-to-write', '0');
      },
    ],
  ])('is not believed any more when %s', async (_, happen) => {
    await drained();
    await append(5);
    expect(await hit()).toBe(true);
    await happen();
    await inner.store.append([row(6)], NOW);
    const before = store.hits;
    expect(await page()).toEqual(positions(await inner.store.page(user, device, undefined, 100)));
    expect(store.hits).toBe(before);
  });

  test('of another process is not believed, nor does that process believe it after this one has written', async () => {
    await drained();
    const other = await newRouter();
    await append(1);
    expect(await other.store.page(user, device, undefined, 10)).toHaveLength(1);
    expect(other.store.hits).toBe(0);
    await append(2);
    expect(await other.store.page(user, device, undefined, 10)).toHaveLength(2);
    expect(other.store.hits).toBe(0);
  });

  test('a Redis that stands still holds an append up for its deadline, once', async () => {
    await drained();
    server.pause();
    await append(1);
    const startedAtMs = performance.now();
    for (let n = 2; n < 10; n++) await append(n);
    expect(performance.now() - startedAtMs).toBeLessThan(2_000);
    server.resume();
    await until(() => redis.ready, 'it answers');
    expect(await page()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  test('keys live for a bounded time and share the slot of their user', async () => {
    await drained();
    await append(1);
    await store.append([row(1, randomUUID())], NOW);
    const keys = (await server.command('KEYS', '*')).split('\r\n').filter((line) => line.startsWith('test:'));
    expect(keys).toEqual([`test:inbox:{${user}}:${device}`]);
    for (const key of keys) expect(await server.command('PTTL', key)).toMatch(/^:[1-9]/);
  });

  test('whatever happens, a page is the page of the store (random histories)', async () => {
    const below = numbers(newSeed('histories of cached inboxes'));
    const devices: string[] = [device, randomUUID(), randomUUID()];
    const anyDevice = () => devices[below(devices.length)] as string;
    const some = () => Array.from({ length: 1 + below(4) }, () => below(60));
    const other = await newRouter();
    const happenings: [number, () => Promise<unknown>][] = [
      [
        30,
        () =>
          store.append(
            some().map((n) => row(n, anyDevice(), below(40) === 0 ? 17_000 : n)),
            NOW,
          ),
      ],
      [20, () => store.remove(user, anyDevice(), some().map(at))],
      [3, () => store.clear(user, anyDevice())],
      [2, () => server.command('FLUSHALL')],
      [2, () => server.command('DEL', `test:inbox:{${user}}:${anyDevice()}`)],
      [1, () => server.command('SCRIPT', 'FLUSH')],
      [1, () => server.command('CLIENT', 'KILL', 'TYPE', 'normal')],
      // Writes to Redis fail for a while.
      [1, () => server.command('CONFIG', 'SET', 'min-replicas-to-write', '1')],
      [4, () => server.command('CONFIG', 'SET', 'min-replicas-to-write', '0')],
      // Another router has the user for a while, and may be without Redis.
      [
        1,
        async () => {
          await settle();
          const writer = below(2) === 0 ? other.store : inner.store;
          await writer.append([row(below(60), anyDevice())], NOW);
          await writer.remove(user, anyDevice(), some().map(at));
          tenure++;
        },
      ],
    ];
    const lots = happenings.flatMap(([weight, happen]) => Array.from({ length: weight }, () => happen));
    let running: Promise<unknown>[] = [];
    const settle = async () => {
      await Promise.all(running);
      running = [];
    };
    const startedAtMs = Date.now();
    for (let step = 0; Date.now() - startedAtMs < 10_000; step++) {
      const happen = lots[below(lots.length)] as (typeof lots)[number];
      if (below(3) > 0) await happen();
      else running.push(happen());
      if (below(10) === 0) await sleep(below(8));
      await settle();
      for (const deviceId of devices) {
        // Now and then from the start, as a session that drains, and from anywhere.
        const after = below(2) === 0 ? undefined : at(below(60));
        const limit = 1 + below(80);
        const [found, truth] = [
          await store.page(user, deviceId, after, limit),
          await inner.store.page(user, deviceId, after, limit),
        ];
        expect({ step, rows: found.map(plain) }).toEqual({ step, rows: truth.map(plain) });
      }
    }
    expect(store.hits).toBeGreaterThan(100);
    console.info(`${store.hits} pages came from Redis`);
  });

  test('while rows come and go, a page has what was appended before and not what was removed before', async () => {
    const below = numbers(newSeed('concurrent use of cached inboxes'));
    const appended = new Set<number>();
    const removing = new Set<number>();
    const removed = new Set<number>();
    let next = 0;
    let ended = false;
    const writer = async () => {
      while (!ended) {
        const ns = Array.from({ length: 1 + below(3) }, () => next++);
        await append(...ns);
        for (const n of ns) appended.add(n);
        const gone = [...appended].filter((n) => !removing.has(n)).slice(0, below(6));
        for (const n of gone) removing.add(n);
        await store.remove(user, device, gone.map(at));
        for (const n of gone) removed.add(n);
        // Now and then nothing is written, so that the cache is filled.
        await sleep(below(30));
      }
    };
    const reader = async () => {
      while (!ended) {
        const due = [...appended].filter((n) => !removing.has(n));
        const over = [...removed];
        const found = new Set(await page(undefined, 1_000));
        expect(due.filter((n) => !found.has(n) && !removing.has(n))).toEqual([]);
        expect(over.filter((n) => found.has(n))).toEqual([]);
        await sleep(below(3));
      }
    };
    const enemy = async () => {
      while (!ended) {
        await sleep(below(1_000));
        const command = [['FLUSHALL'], ['SCRIPT', 'FLUSH'], ['CLIENT', 'KILL', 'TYPE', 'normal']][below(3)] as string[];
        await server.command(...command);
      }
    };
    const all = [writer(), writer(), reader(), reader(), enemy()];
    await Promise.race([sleep(6_000), ...all]).finally(() => {
      ended = true;
    });
    await Promise.all(all);
    expect(store.hits).toBeGreaterThan(10);
  });
});

function plain({ position, payload }: InboxRow): string {
  return `${position} ${Buffer.from(payload).toString('latin1')}`;
}
