import { randomUUID } from 'node:crypto';
import { createLogger, EnvReader, type MeshError, Metrics, type RedisConfig, readRedisConfig } from '@chatmesh/mesh';
import { RedisClient } from '@chatmesh/mesh/redis';
import { type EdgeSession, PresenceService, type PresenceStore } from '@chatmesh/presence';
import { RedisPresenceStore } from '@chatmesh/presence/redis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { presenceStoreContract } from '../contract/presence-store.js';
import { until } from '../mesh.js';
import { RedisServer, startRedisCluster } from './redis-server.js';

const LEASE_MS = 15_000;
const MINUTE_MS = 60_000;
const silent = createLogger({ name: 'test', level: 'silent' });

function configOf(env: Record<string, string>): RedisConfig {
  const config = readRedisConfig(new EnvReader({ REDIS_PREFIX: `test:${randomUUID()}:`, ...env }));
  if (!config) throw new Error('no address of Redis');
  return config;
}

async function openStore(env: Record<string, string>, now: () => number = Date.now): Promise<PresenceStore> {
  return new RedisPresenceStore({ redis: await RedisClient.open(configOf(env), { logger: silent }), now });
}

describe('on a shared Redis', () => {
  const url = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379';
  presenceStoreContract('Redis', (now) => openStore({ REDIS_URL: url }, now));
});

describe('on a cluster', () => {
  let servers: RedisServer[];
  const url = () => `redis://${servers.map(({ port }) => `127.0.0.1:${port}`).join(',')}`;

  beforeAll(async () => {
    servers = await startRedisCluster();
  });
  afterAll(async () => {
    for (const server of servers) await server.stop();
  });

  presenceStoreContract('a Redis cluster of three', (now) =>
    openStore({ REDIS_URL: url(), REDIS_CLUSTER: 'true' }, now),
  );

  test('a client that takes a node for a lone Redis is told what to set', async () => {
    await expect(openStore({ REDIS_URL: servers[0]?.url ?? '' })).rejects.toMatchObject({
      kind: 'failed_precondition',
      message: expect.stringContaining('REDIS_CLUSTER=true'),
    });
  });

  test('who watches hears of changes through other processes, from every node, after slots have moved and nodes come back', async () => {
    const env = { REDIS_URL: url(), REDIS_CLUSTER: 'true', REDIS_PREFIX: `test:${randomUUID()}:` };
    const [here, there] = [await openStore(env), await openStore(env)];
    try {
      const edgeId = randomUUID();
      const report = (full: boolean, opened: EdgeSession[]) =>
        untilDone(() => there.report({ edgeId, leaseMs: LEASE_MS, full, opened, closed: [] }));
      await report(true, []);
      const users = Array.from({ length: 60 }, () => randomUUID());
      const told = new Set<string>();
      for (const userId of users) await here.watch(userId, () => told.add(userId));
      let session = 1;
      const allAreTold = async () => {
        told.clear();
        await until(
          async () => {
            const opened = users
              .filter((userId) => !told.has(userId))
              .map((userId) => ({ ...newSession(session++), userId }));
            await report(false, opened);
            return told.size === users.length;
          },
          { what: () => `${users.length - told.size} of ${users.length} to be told` },
        );
      };
      await allAreTold();
      const [from, to] = servers as [RedisServer, RedisServer];
      await moveSlots(from, to, 500);
      await report(true, []);
      await allAreTold();
      await from.kill();
      await from.restart();
      await report(true, []);
      await allAreTold();
      await moveSlots(to, from, 500);
    } finally {
      await here[Symbol.asyncDispose]();
      await there[Symbol.asyncDispose]();
    }
  });

  test('keys whose slots have moved are written and found where they are now', async () => {
    const store = await openStore({ REDIS_URL: url(), REDIS_CLUSTER: 'true' });
    try {
      const [from, to] = servers as [RedisServer, RedisServer];
      await moveSlots(from, to, 500);
      // Some fifty of these are in slots that the client looks for at the old place, among many that are not.
      const sessions = Array.from({ length: 1_600 }, (_, i) => newSession(i));
      const report = { edgeId: randomUUID(), leaseMs: LEASE_MS, full: true, opened: sessions, closed: [] };
      expect(await untilDone(() => store.report(report))).toEqual({ known: true });
      expect(await store.sessionsOf(sessions.map(({ userId }) => userId))).toHaveLength(1_600);
    } finally {
      await store[Symbol.asyncDispose]();
    }
  });

  test('of one that has lost a node, users of the others are served, and all are when it is back', async () => {
    const store = await openStore({ REDIS_URL: url(), REDIS_CLUSTER: 'true' });
    const [lost] = servers as [RedisServer];
    try {
      await store.report({ edgeId: randomUUID(), leaseMs: LEASE_MS, full: true, opened: [], closed: [] });
      await lost.kill();
      const startedAtMs = performance.now();
      const outcomes = await Promise.allSettled(Array.from({ length: 50 }, () => store.sessionsOf([randomUUID()])));
      expect(performance.now() - startedAtMs).toBeLessThan(5_000);
      const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
      for (const { reason } of failed) expect(reason).toMatchObject({ kind: 'unavailable' });
      await lost.restart();
      await untilDone(() => Promise.all(Array.from({ length: 50 }, () => store.sessionsOf([randomUUID()]))));
    } finally {
      await store[Symbol.asyncDispose]();
    }
  });
});

describe('a Redis', () => {
  let server: RedisServer;
  let store: PresenceStore;
  let nowMs: number;
  const edgeId = randomUUID();
  const report = (full: boolean, opened: EdgeSession[] = [], closed: EdgeSession[] = []) =>
    store.report({ edgeId, leaseMs: LEASE_MS, full, opened, closed });

  beforeEach(async () => {
    nowMs = Date.now();
    server = await RedisServer.start();
    store = await openStore({ REDIS_URL: server.url }, () => nowMs);
  });
  afterEach(async () => {
    await store[Symbol.asyncDispose]();
    await server.stop();
  });

  test('that is emptied asks edges for a full report, and then everything is back', async () => {
    const sessions = Array.from({ length: 200 }, (_, i) => newSession(i));
    const users = sessions.map(({ userId }) => userId);
    await report(true, sessions);
    await server.command('FLUSHALL');
    expect(await store.sessionsOf(users)).toEqual([]);
    expect(await report(false)).toEqual({ known: false });
    expect(await report(true, sessions)).toEqual({ known: true });
    expect(await store.sessionsOf(users)).toHaveLength(200);
  });

  test('that is emptied during full reports never knows an edge without its sessions', async () => {
    const sessions = Array.from({ length: 3_000 }, (_, i) => newSession(i));
    const users = sessions.map(({ userId }) => userId);
    for (let round = 0; round < 5; round++) {
      const reported = report(true, sessions).catch((error) => error);
      await server.command('FLUSHALL');
      await reported;
      const { known } = await report(false).catch(() => ({ known: false }));
      if (known) expect(await store.sessionsOf(users)).toHaveLength(3_000);
    }
  });

  test('that forgets its scripts is told them again', async () => {
    const session = newSession(1);
    await report(true);
    await server.command('SCRIPT', 'FLUSH');
    await report(false, [session]);
    expect(await store.sessionsOf([session.userId])).toHaveLength(1);
  });

  test('that restarts is used again by itself', async () => {
    await report(true, [newSession(1)]);
    await server.kill();
    await expect(store.sessionsOf([randomUUID()])).rejects.toMatchObject({ kind: 'unavailable' });
    await until(() => !store.ready, { what: 'it is noticed' });
    await server.restart();
    await until(() => store.ready, { what: 'it is there again' });
    expect(await report(false)).toEqual({ known: false });
    const session = newSession(2);
    await report(true, [session]);
    expect(await store.sessionsOf([session.userId])).toHaveLength(1);
  });

  test('that restarts is watched again by itself, and watchers are told to look', async () => {
    await report(true);
    const session = newSession(1);
    let told = 0;
    await store.watch(session.userId, () => told++);
    await server.kill();
    await until(() => !store.ready, { what: 'it is noticed' });
    await expect(store.watch(randomUUID(), () => undefined)).rejects.toMatchObject({ kind: 'unavailable' });
    const before = told;
    await server.restart();
    await until(() => told > before, { what: 'watchers are told' });
    await until(() => store.ready, { what: 'it is there again' });
    const again = told;
    await report(true, [session]);
    await until(() => told > again, { what: 'a change is told' });
  });

  test('that stands still makes calls fail within their deadline, also when many come, and is used again', async () => {
    await report(true);
    server.pause();
    try {
      for (let round = 0; round < 3; round++) {
        const startedAtMs = performance.now();
        const calls = Array.from({ length: 500 }, () => store.sessionsOf([randomUUID()]));
        const outcomes = await Promise.allSettled([...calls, report(false, [newSession(3)])]);
        expect(performance.now() - startedAtMs).toBeLessThan(3_000);
        for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { kind: 'unavailable' } });
      }
      expect(store.ready).toBe(false);
    } finally {
      server.resume();
    }
    await until(() => store.ready, { what: 'it is there again' });
    expect(await report(true)).toEqual({ known: true });
  });

  test('that stands still is noticed although nobody asks it anything', async () => {
    server.pause();
    try {
      await until(() => !store.ready, { what: 'it is noticed' });
    } finally {
      server.resume();
    }
  });

  test('takes ten thousand sessions in one report, and gives them to one question', async () => {
    const sessions = Array.from({ length: 10_000 }, (_, i) => newSession(i));
    await report(true, sessions);
    const found = await store.sessionsOf(sessions.map(({ userId }) => userId));
    expect(found).toHaveLength(10_000);
    await report(false, [], sessions);
    expect(await store.sessionsOf(sessions.map(({ userId }) => userId))).toEqual([]);
  });

  test('has a time to live for every key', async () => {
    const sessions = [newSession(1), newSession(2)];
    await report(true, sessions);
    await report(false, [newSession(3)], sessions);
    const keys = (await server.command('KEYS', '*')).split('\r\n').filter((line) => line.startsWith('test:'));
    expect(keys).toHaveLength(4);
    for (const key of keys) expect(await server.command('PTTL', key)).toMatch(/^:[1-9]/);
  });

  test('wants everything again after ten minutes, and until then and meanwhile nobody seems to have left', async () => {
    const session = newSession(1);
    await report(true, [session]);
    let minutes = 0;
    while ((await store.report({ edgeId, leaseMs: 2 * MINUTE_MS, full: false, opened: [], closed: [] })).known) {
      expect(await store.sessionsOf([session.userId])).toHaveLength(1);
      nowMs += minutes === 0 ? LEASE_MS - 1 : MINUTE_MS;
      minutes++;
      expect(minutes).toBeLessThan(20);
    }
    expect(minutes).toBeGreaterThan(10);
    expect(await store.sessionsOf([session.userId])).toHaveLength(1);
    await report(true, [session]);
    expect(await store.sessionsOf([session.userId])).toHaveLength(1);
  });

  test('does not keep sessions of dead edges under users who come back', async () => {
    const userId = randomUUID();
    for (let i = 0; i < 5; i++) {
      await store.report({
        edgeId: randomUUID(),
        leaseMs: LEASE_MS,
        full: true,
        opened: [{ ...newSession(i), userId }],
        closed: [],
      });
      nowMs += 20 * MINUTE_MS;
    }
    const [key] = (await server.command('KEYS', `*presence:{${userId}}`)).split('\r\n').filter((l) => l.endsWith('}'));
    expect(await server.command('HLEN', key ?? '')).toBe(':1\r\n');
  });
});

describe('a Redis that refuses its client', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start('--requirepass', 'right');
  });
  afterAll(() => server.stop());

  test.each([
    ['without a password', '', 'wants a password'],
    ['with a wrong one', ':wrong@', 'refuses the user or password'],
    ['with an unknown user', 'nobody:right@', 'refuses the user or password'],
  ])('%s says what to change, and not what was tried', async (_, credentials, expected) => {
    const opening = openStore({ REDIS_URL: `redis://${credentials}127.0.0.1:${server.port}` });
    const error = (await opening.then(
      () => undefined,
      (refused) => refused,
    )) as MeshError;
    expect(error).toMatchObject({ kind: 'failed_precondition', message: expect.stringContaining(expected) });
    expect(error.message).not.toMatch(/wrong@|nobody|right/);
    expect(error.cause).toBeUndefined();
  });

  test('lets in who knows the password, in its database', async () => {
    const store = await openStore({ REDIS_URL: `redis://:right@127.0.0.1:${server.port}/3` });
    expect(store.ready).toBe(true);
    await store.report({ edgeId: randomUUID(), leaseMs: LEASE_MS, full: true, opened: [], closed: [] });
    await store[Symbol.asyncDispose]();
  });

  test('that has no such database says so', async () => {
    await expect(openStore({ REDIS_URL: `redis://:right@127.0.0.1:${server.port}/99` })).rejects.toMatchObject({
      kind: 'failed_precondition',
      message: expect.stringContaining('database'),
    });
  });
});

describe('the presence service', () => {
  const host = '127.0.0.1';
  const metrics = new Metrics({ processMetrics: false });

  test('starts without its Redis, says so, is not ready, and is as soon as Redis answers', async () => {
    const server = await RedisServer.start();
    await server.kill();
    const lines: string[] = [];
    const logger = createLogger({ name: 'test', destination: { write: (line) => void lines.push(line) } });
    const config = { host, port: 0, redis: configOf({ REDIS_URL: server.url }) };
    const service = await PresenceService.create(config, { logger, metrics });
    try {
      await service.start();
      expect(service.ready).toBe(false);
      expect(lines.filter((line) => line.includes('Redis does not answer'))).toHaveLength(1);
      await server.restart();
      await until(() => service.ready, { what: 'it is ready' });
      expect(lines.at(-1)).toContain('Redis answers');
    } finally {
      await service[Symbol.asyncDispose]();
      await server.stop();
    }
  });

  test('does not start with wrong credentials', async () => {
    const server = await RedisServer.start('--requirepass', 'right');
    try {
      const redis = configOf({ REDIS_URL: `redis://:wrong@${host}:${server.port}` });
      const starting = PresenceService.create({ host, port: 0, redis }, { logger: silent, metrics });
      await expect(starting).rejects.toMatchObject({ kind: 'failed_precondition' });
    } finally {
      await server.stop();
    }
  });
});

function newSession(session: number): EdgeSession {
  return { userId: randomUUID(), deviceId: randomUUID(), session };
}

/** Gives the first slots of a node, which are emptied, to another one. */
async function moveSlots(from: RedisServer, to: RedisServer, count: number): Promise<void> {
  await from.command('FLUSHALL');
  const idOf = async (server: RedisServer) => /\$\d+\r\n(\w+)/.exec(await server.command('CLUSTER', 'MYID'))?.[1] ?? '';
  const [fromId, toId] = [await idOf(from), await idOf(to)];
  const setSlot = async (server: RedisServer, ...words: (string | number)[]) =>
    expect(await server.command('CLUSTER', 'SETSLOT', ...words)).toBe('+OK\r\n');
  for (let slot = 0; slot < count; slot++) {
    await setSlot(to, slot, 'IMPORTING', fromId);
    await setSlot(from, slot, 'MIGRATING', toId);
    await setSlot(to, slot, 'NODE', toId);
    await setSlot(from, slot, 'NODE', toId);
  }
}

/** Tries again while Redis is unavailable. */
async function untilDone<T>(attempt: () => Promise<T>): Promise<T> {
  let error: unknown;
  for (let endsAtMs = Date.now() + 20_000; Date.now() < endsAtMs; ) {
    try {
      return await attempt();
    } catch (failed) {
      error = failed;
      if ((failed as MeshError).kind !== 'unavailable') throw failed;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw error;
}
