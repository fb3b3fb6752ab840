import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Metrics } from '@chatmesh/mesh';
import { SqlUserStore, UserService } from '@chatmesh/user';
import { migrateUsers } from '@chatmesh/user/migrate';
import { PostgresEngine } from '@chatmesh/user/postgres';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { userStoreContract } from '../contract/user-store.js';
import { TestMesh } from '../mesh.js';
import { newDatabase, sharedUrl, silent, statement } from './postgres-server.js';

const cli = fileURLToPath(new URL('../../../packages/cli/bin/chatmesh.js', import.meta.url));

let database: { url: string; drop(): Promise<void> };
const open = async (url = database.url) => SqlUserStore.open(await PostgresEngine.open({ url, poolMax: 10 }, silent));
const tables = async () =>
  (
    await statement<{ name: string }>(
      database.url,
      "select table_name as name from information_schema.tables where table_schema = 'public' order by 1",
    )
  ).map(({ name }) => name);

/** `npx chatmesh ...` with this environment and none of ours. */
function chatmesh(env: NodeJS.ProcessEnv, ...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, ...args], { env: { PATH: process.env.PATH, ...env } }, (error, out, err) =>
      resolve({ code: error ? Number(error.code) : 0, out, err }),
    );
  });
}

describe('the contract', () => {
  beforeAll(async () => {
    database = await newDatabase(sharedUrl());
    await migrateUsers(database);
  });
  afterAll(() => database.drop());

  userStoreContract('PostgreSQL', () => open());
});

describe('a schema', () => {
  beforeEach(async () => {
    database = await newDatabase(sharedUrl());
  });
  afterEach(() => database.drop());

  test('is made once by many at the same time, in several processes and within one', async () => {
    const processes = Array.from({ length: 4 }, () => chatmesh({ DATABASE_URL: database.url }, 'migrate', '--json'));
    const [programs, connections] = await Promise.all([
      Promise.all(processes),
      Promise.all(Array.from({ length: 6 }, () => migrateUsers(database))),
    ]);
    expect(programs.map(({ code, err }) => ({ code, err }))).toEqual(programs.map(() => ({ code: 0, err: '' })));
    const said = programs.map(({ out }) => JSON.parse(out) as { engine: string; result: string });
    const makers = [
      ...said.filter(({ result }) => result.startsWith('applied 0001')),
      ...connections.filter((applied) => applied.length > 0),
    ];
    expect(makers).toHaveLength(1);
    const store = await open();
    await store[Symbol.asyncDispose]();
  });

  test('that is missing is asked for, and not made in passing by a service', async () => {
    const config = { host: '127.0.0.1', port: 0, dataDir: '/nowhere', database: { url: database.url, poolMax: 2 } };
    const service = await UserService.create(config, {
      logger: silent,
      metrics: new Metrics({ processMetrics: false }),
    });
    try {
      await expect(service.start()).rejects.toMatchObject({
        kind: 'failed_precondition',
        message: expect.stringMatching(/no schema yet.*`npx chatmesh migrate`/),
      });
      expect(service.ready).toBe(false);
      expect(await tables()).toEqual([]);
    } finally {
      await service[Symbol.asyncDispose]();
    }
  });

  test('that is older is asked for, by the migrations that are missing', async () => {
    await migrateUsers(database);
    await statement(database.url, 'delete from kysely_migration');
    await expect(open()).rejects.toMatchObject({
      kind: 'failed_precondition',
      message: expect.stringMatching(/0001_accounts missing.*`npx chatmesh migrate`/),
    });
  });

  test('that is newer is refused by services and by migrate, and left as it is', async () => {
    await migrateUsers(database);
    await statement(database.url, "insert into kysely_migration values ('9999_future', '')");
    const newer = {
      kind: 'failed_precondition',
      message: expect.stringMatching(/newer schema \(9999_future\).*`npx chatmesh migrate`/),
    };
    await expect(open()).rejects.toMatchObject(newer);
    await expect(migrateUsers(database)).rejects.toMatchObject(newer);
    expect(await statement(database.url, 'select name from kysely_migration order by 1')).toHaveLength(2);
  });
});

describe('npx chatmesh migrate', () => {
  beforeEach(async () => {
    database = await newDatabase(sharedUrl());
  });
  afterEach(() => database.drop());

  test('says in one line what it did, and the second time that there was nothing to do', async () => {
    const env = { DATABASE_URL: database.url };
    expect(await chatmesh(env, 'migrate')).toEqual({ code: 0, out: 'PostgreSQL: applied 0001_accounts\n', err: '' });
    expect(await chatmesh(env, 'migrate')).toEqual({ code: 0, out: 'PostgreSQL: is up to date\n', err: '' });
    const { out } = await chatmesh(env, 'migrate', '--json');
    expect(JSON.parse(out)).toEqual({ engine: 'PostgreSQL', result: 'is up to date' });
  });

  test('without a real engine there is nothing to prepare', async () => {
    expect(await chatmesh({}, 'migrate')).toMatchObject({ code: 0, out: expect.stringContaining('DATABASE_URL') });
  });

  test('fails with a sentence where nothing answers, where the database is missing, and where a variable is wrong', async () => {
    const nobody = 'postgres://chatmesh@127.0.0.1:1/chatmesh';
    expect(await chatmesh({ DATABASE_URL: nobody }, 'migrate')).toEqual({
      code: 3,
      out: '',
      err: expect.stringMatching(/^PostgreSQL at 127\.0\.0\.1:1 is not available: .*ECONNREFUSED.*\n$/),
    });
    expect(JSON.parse((await chatmesh({ DATABASE_URL: nobody }, 'migrate', '--json')).out)).toMatchObject({
      engine: 'PostgreSQL',
      error: expect.stringContaining('ECONNREFUSED'),
    });
    const missing = new URL(database.url);
    missing.pathname = '/nowhere';
    expect(await chatmesh({ DATABASE_URL: missing.href }, 'migrate')).toEqual({
      code: 1,
      out: '',
      err: expect.stringMatching(/has no database "nowhere": create it/),
    });
    expect(await chatmesh({ DATABASE_URL: 'mysql://a:secret@b/c' }, 'migrate')).toEqual({
      code: 2,
      out: '',
      err: expect.stringMatching(/DATABASE_URL must be a postgres:\/\/ URL/),
    });
  });
});

describe('a mesh', () => {
  beforeEach(async () => {
    database = await newDatabase(sharedUrl());
  });
  afterEach(() => database.drop());

  test('ends at its start with one sentence while the schema is missing, and serves users when it is there', async () => {
    const env = { DATABASE_URL: database.url };
    await expect(TestMesh.start({ env })).rejects.toThrow(/user cannot start: .*run `npx chatmesh migrate`/);
    await migrateUsers(database);
    const mesh = await TestMesh.start({ env });
    try {
      const users = await mesh.users(3);
      expect(await statement(database.url, 'select id from users')).toHaveLength(users.length);
      expect(await mesh.process('user').end('SIGTERM')).toBe(0);
    } finally {
      await mesh[Symbol.asyncDispose]();
    }
  });
});
