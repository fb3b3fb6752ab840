import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync } from 'node:fs';
import { join } from 'node:path';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, Metrics } from '@chatmesh/mesh';
import { type NewUser, SqlUserStore, UserService, type UserStore } from '@chatmesh/user';
import { migrateUsers } from '@chatmesh/user/migrate';
import { PostgresEngine } from '@chatmesh/user/postgres';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { until } from '../mesh.js';
import { listening, PASSWORD, PostgresServer, silent, statement } from './postgres-server.js';

/** Connecting and one silent statement, with room for a busy machine. */
const DEADLINE_MS = 12_000;
const AT_MS = Date.UTC(2026, 2, 1);

let server: PostgresServer;
let number = 15_550_000_000;
const newUser = (): NewUser => ({
  userId: randomUUID(),
  deviceId: randomUUID(),
  contactNumber: `+${number++}`,
  name: 'Ada',
});
const open = async (url: string, poolMax = 4): Promise<UserStore> =>
  SqlUserStore.open(await PostgresEngine.open({ url, poolMax }, silent));

beforeAll(async () => {
  server = await PostgresServer.create(['ssl = off', 'fsync = on']);
  await server.start();
  await statement(server.url('postgres'), 'create database chatmesh');
  await migrateUsers({ url: server.url('chatmesh') });
});
afterAll(() => server.remove());

describe('an outage', () => {
  let store: UserStore;

  beforeAll(async () => {
    store = await open(server.url('chatmesh'));
  });
  afterAll(async () => {
    await store[Symbol.asyncDispose]();
  });

  /** Every kind of call, more of each than there are connections. */
  const calls = () =>
    Array.from({ length: 8 }, (_, i) => i).flatMap(() => [
      store.createUsers([newUser()], AT_MS),
      store.registerDevice({ userId: randomUUID(), deviceId: randomUUID(), createUser: true, maxDevices: 3 }, AT_MS),
      store.resolveUsers([randomUUID()]),
      store.findDevices([newUser()]),
    ]);
  const works = async () => {
    const user = newUser();
    await store.createUsers([user], AT_MS);
    expect(await store.resolveUsers([user.userId])).toHaveLength(1);
    return user;
  };
  /** Resolves when all have ended; @returns how long that took, milliseconds. */
  const allUnavailable = async (pending: Promise<unknown>[]): Promise<number> => {
    const startedMs = performance.now();
    const results = await Promise.allSettled(pending);
    expect(results.map((r) => (r.status === 'rejected' ? (r.reason as { kind: string }).kind : 'answered'))).toEqual(
      results.map(() => 'unavailable'),
    );
    return performance.now() - startedMs;
  };

  test('in which PostgreSQL is silent ends every call as unavailable within its deadline, and passes', async () => {
    await works();
    server.freeze();
    expect(await allUnavailable(calls())).toBeLessThan(DEADLINE_MS);
    expect(store.ready).toBe(false);
    server.thaw();
    await until(() => store.ready, { what: 'readiness' });
    await works();
  });

  test('in which PostgreSQL is killed is noticed without a call, loses nothing that was answered, and passes', async () => {
    const before = await works();
    const midway = Array.from({ length: 20 }, () => store.createUsers([newUser()], AT_MS).catch((error) => error));
    await server.kill();
    for (const outcome of await Promise.all(midway)) {
      if (outcome !== undefined) expect(outcome).toMatchObject({ kind: 'unavailable' });
    }
    await until(() => !store.ready, { what: 'the outage to be noticed' });
    expect(await allUnavailable(calls())).toBeLessThan(DEADLINE_MS);
    await server.start();
    await until(() => store.ready, { what: 'readiness' });
    expect(await store.resolveUsers([before.userId])).toHaveLength(1);
    await works();
  });

  test('in which PostgreSQL ends all connections costs at most the calls that were on their way', async () => {
    await works();
    await statement(
      server.url('postgres'),
      "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'chatmesh' and pid <> pg_backend_pid()",
    );
    await until(
      () =>
        works().then(
          () => true,
          () => false,
        ),
      { what: 'a call that is answered' },
    );
  });

  test('of credentials that were changed while the service runs is unavailable like any other', async () => {
    const admin = server.url('postgres');
    await statement(admin, `create role rotated superuser login password '${PASSWORD}'`);
    const rotated = await open(server.url('chatmesh', { user: 'rotated' }));
    try {
      await statement(admin, "alter role rotated password 'another'");
      await statement(admin, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rotated'");
      await expect(
        (async () => {
          for (let i = 0; i < 10; i++) await rotated.resolveUsers([randomUUID()]);
        })(),
      ).rejects.toMatchObject({ kind: 'unavailable' });
    } finally {
      await rotated[Symbol.asyncDispose]();
    }
  });

  test('too many connections for PostgreSQL are an outage, too', async () => {
    await statement(server.url('postgres'), `create role narrow login password '${PASSWORD}' connection limit 1`);
    await statement(server.url('chatmesh'), 'grant select on all tables in schema public to narrow');
    const narrow = await open(server.url('chatmesh', { user: 'narrow' }));
    try {
      await allUnavailable([open(server.url('chatmesh', { user: 'narrow' }))]);
      expect(await narrow.resolveUsers([randomUUID()])).toEqual([]);
    } finally {
      await narrow[Symbol.asyncDispose]();
    }
  });

  test('a service that may not write is not ready', async () => {
    await statement(server.url('postgres'), 'alter role narrow set default_transaction_read_only = on');
    await allUnavailable([open(server.url('chatmesh', { user: 'narrow' }))]);
    await statement(server.url('postgres'), 'alter role narrow reset default_transaction_read_only');
  });
});

describe('a refusal', () => {
  const refused = (sentence: RegExp) => ({ kind: 'failed_precondition', message: expect.stringMatching(sentence) });

  test('names the user of a wrong password, and not the password', async () => {
    const error = await open(server.url('chatmesh', { password: 'wrong-secret' })).catch((thrown) => thrown);
    expect(error).toMatchObject(refused(/refuses the password of user "chatmesh"/));
    expect(JSON.stringify([error.message, String(error.cause), error.stack])).not.toContain('wrong-secret');
  });

  test('says that there is no password, no such user, or no such database', async () => {
    await expect(open(server.url('chatmesh', { password: '' }))).rejects.toMatchObject(refused(/has none/));
    await expect(open(server.url('chatmesh', { user: 'nobody' }))).rejects.toMatchObject(refused(/"nobody"/));
    await expect(open(server.url('elsewhere'))).rejects.toMatchObject(refused(/no database "elsewhere"/));
  });

  test('of TLS, and of a certificate that nobody trusts, says what to set; a trusted one is taken', async () => {
    const encrypted = (mode: string) => server.url('chatmesh', { query: `?sslmode=${mode}` });
    await expect(open(encrypted('require'))).rejects.toMatchObject(refused(/does not offer TLS/));

    const [key, certificate] = [join(server.data, 'server.key'), join(server.data, 'server.crt')];
    const request = [
      'req',
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:prime256v1',
      '-nodes',
      '-days',
      '2',
    ];
    const names = ['-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1'];
    execFileSync('openssl', [...request, ...names, '-keyout', key, '-out', certificate], { stdio: 'ignore' });
    execFileSync('chown', ['--reference', server.data, key, certificate]);
    chmodSync(key, 0o600);
    await statement(server.url('postgres'), 'alter system set ssl = on');
    await statement(server.url('postgres'), 'select pg_reload_conf()');
    await until(
      () =>
        open(encrypted('require')).then(
          (s) => s[Symbol.asyncDispose]().then(() => true),
          () => false,
        ),
      {
        what: 'TLS',
      },
    );
    await expect(open(encrypted('verify-full'))).rejects.toMatchObject(refused(/not trusted.*DATABASE_TLS_CA/));
    // Without sslmode, an authority means that the server is verified.
    for (const url of [encrypted('verify-full'), encrypted('verify-ca'), server.url('chatmesh')]) {
      const engine = await PostgresEngine.open({ url, poolMax: 1, tlsCaFile: certificate }, silent);
      const store = await SqlUserStore.open(engine);
      await store[Symbol.asyncDispose]();
    }
    expect(await statement(encrypted('require'), 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')).toEqual([
      { ssl: true },
    ]);
    await expect(
      PostgresEngine.open({ url: server.url('chatmesh'), poolMax: 1, tlsCaFile: '/no/such.pem' }, silent),
    ).rejects.toMatchObject(refused(/DATABASE_TLS_CA=\/no\/such\.pem/));
  });
});

describe('a service whose database is down at its start', () => {
  const create = (logger = silent) =>
    UserService.create(
      { host: '127.0.0.1', port: 0, dataDir: '/nowhere', database: { url: server.url('chatmesh'), poolMax: 4 } },
      { logger, metrics: new Metrics({ processMetrics: false }) },
    );

  test('waits for it, says so, and serves when it is there', async () => {
    await server.kill();
    const { logger, lines } = listening();
    const service = await create(logger);
    try {
      const started = service.start();
      await until(() => lines.filter(({ level }) => level === 'warn').length >= 2, { what: 'two attempts' });
      expect(service.ready).toBe(false);
      expect(lines[0]).toMatchObject({
        msg: expect.stringContaining('the user database does not answer yet'),
        reason: expect.stringContaining(`127.0.0.1:${server.port}`),
      });
      await server.start();
      await started;
      expect(service.ready).toBe(true);
      const client = createClient(DirectoryService, { address: `127.0.0.1:${service.port}` });
      try {
        expect((await client.createUsers({ contactNumber: `+${number++}`, name: 'Ada' })).users).toHaveLength(1);
      } finally {
        client.close();
      }
    } finally {
      await service[Symbol.asyncDispose]();
    }
  });

  test('can be stopped while it waits', async () => {
    await server.kill();
    const service = await create();
    const started = service.start();
    await service.drain(1_000);
    await expect(started).rejects.toMatchObject({ kind: 'cancelled' });
    await service[Symbol.asyncDispose]();
    await server.start();
  });
});
