import { randomUUID } from 'node:crypto';
import { type NewUser, SqlUserStore, type UserStore } from '@chatmesh/user';
import { migrateUsers } from '@chatmesh/user/migrate';
import { PostgresEngine } from '@chatmesh/user/postgres';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { userStoreContract } from '../contract/user-store.js';
import { until } from '../mesh.js';
import { listening, newDatabase, PostgresServer, silent, statement } from './postgres-server.js';

const AT_MS = Date.UTC(2026, 2, 1);

let primary: PostgresServer;
let standby: PostgresServer;
let number = 15_560_000_000;

const open = async (database: string, logger = silent, replica = standby.url(database)): Promise<UserStore> =>
  SqlUserStore.open(await PostgresEngine.open({ url: primary.url(database), replicaUrl: replica, poolMax: 4 }, logger));
const newUser = (): NewUser => ({
  userId: randomUUID(),
  deviceId: randomUUID(),
  contactNumber: `+${number++}`,
  name: 'Ada',
});
/** How often the users were looked up on a server, as far as its connections have told. */
const lookUps = async (url: string): Promise<number> => {
  const [row] = await statement<{ scans: string }>(
    url,
    "select seq_scan + idx_scan as scans from pg_stat_user_tables where relname = 'users'",
  );
  return Number(row?.scans);
};

beforeAll(async () => {
  primary = await PostgresServer.create();
  await primary.start();
  for (const name of ['contract', 'chatmesh']) {
    await statement(primary.url('postgres'), `create database ${name}`);
    await migrateUsers({ url: primary.url(name) });
  }
  standby = await PostgresServer.standbyOf(primary);
  await standby.start();
});
afterAll(async () => {
  await standby?.remove();
  await primary?.remove();
});

userStoreContract('PostgreSQL with a replica', () => open('contract'));

describe('look-ups on a replica', () => {
  let store: UserStore;
  let lines: ReturnType<typeof listening>['lines'];

  beforeEach(async () => {
    const { logger, lines: told } = listening();
    lines = told;
    store = await open('chatmesh', logger);
  });
  afterEach(async () => {
    await store[Symbol.asyncDispose]();
  });

  /** A user, then a device of it, each looked up as soon as it is there. */
  const readsItsWrites = async () => {
    const user = newUser();
    await store.createUsers([user], AT_MS);
    expect(await store.findDevices([user])).toEqual([{ suspended: false, deleted: false, device: 'unannounced' }]);
    const { userId } = user;
    const deviceId = randomUUID();
    await store.registerDevice({ userId, deviceId, createUser: false, maxDevices: 3 }, AT_MS);
    expect((await store.resolveUsers([userId]))[0]?.deviceIds).toContain(deviceId);
    await store.revokeDevice({ userId, deviceId }, AT_MS);
    expect(await store.findDevices([{ userId, deviceId }])).toMatchObject([{ device: 'revoked' }]);
  };
  const said = (message: string) => lines.filter(({ msg }) => msg.includes(message));
  const answersAgain = () =>
    until(
      async () => {
        await readsItsWrites();
        return said('to the replica again').length > 0;
      },
      { what: 'the replica to be used again' },
    );

  test('see what was answered before, many at once, and are spared the primary', async () => {
    const [before, primaryBefore] = [await lookUps(standby.url('chatmesh')), await lookUps(primary.url('chatmesh'))];
    await Promise.all(Array.from({ length: 40 }, readsItsWrites));
    await store[Symbol.asyncDispose]();
    store = await open('chatmesh');
    await until(async () => (await lookUps(standby.url('chatmesh'))) >= before + 100, { what: 'look-ups there' });
    expect(await lookUps(primary.url('chatmesh'))).toBeGreaterThan(primaryBefore);
    expect(lines.filter(({ level }) => level === 'warn')).toEqual([]);
  });

  test('go to the primary while the replica lags, and return when it has caught up', async () => {
    await statement(standby.url('postgres'), 'select pg_wal_replay_pause()');
    for (let i = 0; i < 5; i++) await readsItsWrites();
    expect(said('look-ups go to the primary')).toMatchObject([{ reason: 'the replica lags behind' }]);
    await statement(standby.url('postgres'), 'select pg_wal_replay_resume()');
    await answersAgain();
  });

  test('go to the primary while the replica is silent or dead, and return when it answers', async () => {
    await readsItsWrites();
    standby.freeze();
    await readsItsWrites();
    expect(said('look-ups go to the primary')).toHaveLength(1);
    expect(store.ready).toBe(true);
    await standby.kill();
    for (let i = 0; i < 5; i++) await readsItsWrites();
    await standby.start();
    await answersAgain();
  });

  test('go to the primary when the replica is another database', async () => {
    const other = await newDatabase(primary.url('postgres'));
    const { logger, lines: told } = listening();
    const confused = await open('chatmesh', logger, other.url);
    try {
      const user = newUser();
      await confused.createUsers([user], AT_MS);
      expect(await confused.resolveUsers([user.userId])).toHaveLength(1);
      expect(told.filter(({ level }) => level === 'warn')).toMatchObject([
        { reason: expect.stringContaining('DATABASE_REPLICA_URL is no replica of DATABASE_URL') },
      ]);
    } finally {
      await confused[Symbol.asyncDispose]();
      await other.drop();
    }
  });

  test('go to the primary when the replica has been promoted', async () => {
    await statement(standby.url('postgres'), 'select pg_promote()');
    await readsItsWrites();
    expect(said('look-ups go to the primary')).toMatchObject([{ reason: 'the replica has been promoted' }]);
  });
});
