import { execFile } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import {
  type ChatConfig,
  ChatService,
  migrateLog,
  type PulsarConfig,
  PulsarMessageLog,
  readConfig,
  type ScyllaConfig,
} from '@chatmesh/chat';
import { CassandraInboxStore, CassandraStatusStore, checkSchema, migrateStores } from '@chatmesh/chat/scylla';
import { createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import { PulsarClient } from '@chatmesh/mesh/pulsar';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { Authority } from '../certificates.js';
import { WireClient } from '../client.js';
import { until } from '../contract/engine.js';
import { eventFor } from '../contract/message-log-witness.js';
import { newRecord, plain } from '../contract/status-store-model.js';
import { TestMesh, type TestUser } from '../mesh.js';
import { failure } from './failure.js';
import { SecuredCassandra, SecuredPulsar } from './secured-engines.js';

const MIGRATE = fileURLToPath(new URL('../../../services/dist/migrate.js', import.meta.url));
const START_MS = 180_000;

type Changes = Record<string, string>;

let directory: string;
let cassandra: SecuredCassandra;
let pulsar: SecuredPulsar;
/** Nobody's certificate is signed by this one. */
let stranger: Authority;
let env: Record<string, string>;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-security-'));
  cassandra = new SecuredCassandra(directory);
  pulsar = await SecuredPulsar.in(directory);
  stranger = new Authority(directory, 'stranger');
  await Promise.all([cassandra.start(), pulsar.start()]);
  env = {
    ...cassandra.env,
    SCYLLA_REPLICATION_FACTOR: '1',
    ...pulsar.env,
    PULSAR_PARTITIONS: '2',
    CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
  };
}, START_MS);
afterAll(async () => {
  await Promise.all([cassandra?.wipe(), pulsar?.wipe()]);
  rmSync(directory, { recursive: true, force: true });
});

/** A router's configuration with the secured engines, but for some variables; one that is empty is not set. */
function configOf(changes: Changes = {}): ChatConfig & { scylla: ScyllaConfig; pulsar: PulsarConfig } {
  const reader = new EnvReader({ ...env, CHAT_PORT: '0', ...changes });
  const config = readConfig(reader);
  reader.finish();
  const { scylla, pulsar } = config;
  if (!scylla || !pulsar) throw new Error('both engines have to be configured');
  return { ...config, scylla, pulsar };
}

/** A secret that nothing else contains. */
const secret = (what: string) => `${what}-${randomUUID()}`;
/** All of an error and of what is below it: more than any log shows. */
const everythingOf = (error: unknown) => inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true });
const summaryOf = ({ kind, message }: { kind: string; message: string }) => ({ kind, message });

describe('Cassandra with TLS and passwords', () => {
  const refusalOf = (changes: Changes) => failure(Cassandra.connect({ ...configOf(changes).scylla, keyspace: '' }));

  test('is prepared and keeps rows for those who have its authority and a password', async () => {
    const { scylla } = configOf();
    expect(await migrateStores(scylla)).toMatch(/^applied 0001_/);
    const session = await Cassandra.connect(scylla);
    try {
      await checkSchema(session);
      const statuses = new CassandraStatusStore(session);
      const record = newRecord(Date.now());
      await statuses.accept([record]);
      expect((await statuses.get([record.serverMessageId])).map(plain)).toEqual([record]);
      const inbox = new CassandraInboxStore(session);
      const row = { userId: randomUUID(), deviceId: randomUUID(), position: '01', payload: Buffer.from('x') };
      await inbox.append([row], Date.now());
      expect(await inbox.page(row.userId, row.deviceId, undefined, 10)).toMatchObject([{ position: '01' }]);
    } finally {
      await session[Symbol.asyncDispose]();
    }
  });

  test.each([
    ['a wrong password', {}],
    ['a role that it does not know', { SCYLLA_USERNAME: 'nobody' }],
    ['no credentials', { SCYLLA_USERNAME: '', SCYLLA_PASSWORD: '' }],
  ])('refuses %s: one sentence says which variables to mend, and nothing tells the password', async (_, changes) => {
    const password = secret('password');
    const error = await refusalOf({ SCYLLA_PASSWORD: password, ...changes });
    expect(summaryOf(error)).toEqual({
      kind: 'failed_precondition',
      message: `Cassandra at ${env.SCYLLA_CONTACT_POINTS} refuses the credentials: set SCYLLA_USERNAME and SCYLLA_PASSWORD`,
    });
    expect(everythingOf(error)).not.toContain(password);
  });

  test('does not permit a role what it may not do: a sentence says which role, and what', async () => {
    const session = await Cassandra.connect({ ...configOf().scylla, keyspace: '' });
    try {
      await session.define([`CREATE ROLE guest WITH PASSWORD = 'guest' AND LOGIN = true`]);
    } finally {
      await session[Symbol.asyncDispose]();
    }
    const guest = { SCYLLA_USERNAME: 'guest', SCYLLA_PASSWORD: 'guest', SCYLLA_KEYSPACE: 'elsewhere' };
    const error = await failure(migrateStores(configOf(guest).scylla));
    expect(error.kind).toBe('failed_precondition');
    expect(error.message).toMatch(/^Cassandra does not permit this to SCYLLA_USERNAME: User guest has no CREATE/);
  });

  test('is not believed by a certificate of another authority', async () => {
    const error = await refusalOf({ SCYLLA_TLS_CA: stranger.caFile });
    expect(error.kind).toBe('failed_precondition');
    expect(error.message).toMatch(/ shows a certificate that SCYLLA_TLS_CA does not vouch for \(\w+\)$/);
  });

  test('takes no plain text: a start would wait, and say in the log what may be missing', async () => {
    const error = await refusalOf({ SCYLLA_TLS_CA: '' });
    expect(error.kind).toBe('unavailable');
    expect((error.cause as Error).message).toMatch(/ closes connections .*: if it takes TLS alone, set SCYLLA_TLS_CA$/);
  });

  test('is told from one that speaks no TLS', async () => {
    const error = await refusalOf({ SCYLLA_CONTACT_POINTS: process.env.SCYLLA_CONTACT_POINTS ?? '' });
    expect(error.kind).toBe('failed_precondition');
    expect(error.message).toMatch(/ does not speak TLS: unset SCYLLA_TLS_CA, or turn TLS on there$/);
  });
});

describe('Pulsar with TLS and tokens', () => {
  /** What migrating and starting a router end with, and every line that was logged meanwhile. */
  async function refusalsOf(changes: Changes) {
    const lines: string[] = [];
    const destination = { write: (line: string) => void lines.push(line) };
    const deps = {
      logger: createLogger({ name: 'test', level: 'trace', destination }),
      metrics: new Metrics({ processMetrics: false }),
    };
    const config = configOf(changes);
    const none = {} as never;
    const router = await ChatService.create(config, deps, { inbox: none, statuses: none });
    try {
      const errors = await Promise.all([failure(migrateLog(config.pulsar)), failure(router.start())]);
      return { errors, lines };
    } finally {
      await router[Symbol.asyncDispose]();
    }
  }

  test('is prepared and carries messages for those who have its authority and a token', async () => {
    const { pulsar: config } = configOf();
    expect(await migrateLog(config)).toMatch(/with 2 partitions$/);
    const logger = createLogger({ name: 'test', level: 'silent' });
    const client = await PulsarClient.create({ ...config, logger });
    try {
      const topic = `persistent://${config.namespace}/events`;
      const log = await PulsarMessageLog.open(client, { topic, epoch: 0, logger });
      const received: string[] = [];
      const consumer = await log.consume(
        (records) => {
          received.push(...records.map(({ position }) => position));
          consumer.acknowledge(records);
        },
        { maxUnacknowledged: 10 },
      );
      const published = await log.publish([eventFor(randomUUID()), eventFor(randomUUID())]);
      await until(() => received.length === 2, 'both came');
      expect(received.sort()).toEqual(published.sort());
      await log[Symbol.asyncDispose]();
    } finally {
      await client.close();
    }
  });

  test('refuses a wrong token and none: one sentence ends migration and start, and nothing tells the token', async () => {
    const [unsigned, garbage] = [await pulsar.tokenOf('mesh', randomBytes(32)), secret('token')];
    // Together, since the client gives up a start only after five seconds.
    const refusals = await Promise.all([unsigned, garbage, ''].map((token) => refusalsOf({ PULSAR_TOKEN: token })));
    const wrong = 'Pulsar refuses the token: set PULSAR_TOKEN to one that it accepts';
    for (const [i, message] of [wrong, wrong, 'Pulsar asks for a token: set PULSAR_TOKEN'].entries()) {
      const expected = { kind: 'failed_precondition', message };
      expect(refusals[i]?.errors.map(summaryOf)).toEqual([expected, expected]);
    }
    for (const token of [unsigned, garbage]) expect(everythingOf(refusals)).not.toContain(token);
  });

  test('does not permit a role what it may not do: a sentence says so', async () => {
    const guest = { PULSAR_TOKEN: await pulsar.tokenOf('guest') };
    const { errors } = await refusalsOf(guest);
    expect(errors.map(({ kind }) => kind)).toEqual(['failed_precondition', 'failed_precondition']);
    const [migration, start] = errors.map(({ message }) => message);
    expect(migration).toMatch(/^Pulsar does not permit PUT \S+ to the role of PULSAR_TOKEN: Unauthorized .*guest/);
    expect(start).toMatch(/^Pulsar does not permit this to the role of PULSAR_TOKEN: .*AuthorizationError$/);
  });

  test('is not believed by a certificate of another authority', async () => {
    for (const { kind, message } of (await refusalsOf({ PULSAR_TLS_CA: stranger.caFile })).errors) {
      expect(kind).toBe('failed_precondition');
      expect(message).toMatch(
        /^Pulsar's admin interface shows a certificate that PULSAR_TLS_CA does not vouch for \(\w+\)$/,
      );
    }
  });

  test('takes no plain text', async () => {
    const plainUrl = pulsar.env.PULSAR_ADMIN_URL.replace('https:', 'http:');
    expect(summaryOf(await failure(migrateLog(configOf({ PULSAR_ADMIN_URL: plainUrl }).pulsar)))).toEqual({
      kind: 'failed_precondition',
      message: "Pulsar's admin interface does not speak plain HTTP: set PULSAR_ADMIN_URL to its https:// URL",
    });
    const logger = createLogger({ name: 'test', level: 'silent' });
    const serviceUrl = pulsar.env.PULSAR_URL.replace('pulsar+ssl:', 'pulsar:');
    const client = await PulsarClient.create({ ...configOf().pulsar, serviceUrl, logger });
    try {
      expect((await failure(client.partitionsOf('persistent://chatmesh/mesh/events'))).kind).toBe('unavailable');
    } finally {
      await client.close();
    }
  });
});

describe('a mesh on engines with TLS, passwords and tokens', () => {
  /** Prepares the engines as an operator does. */
  const migrate = (changes: Changes) =>
    new Promise<{ code: unknown; out: string; err: string }>((resolve) => {
      execFile(process.execPath, [MIGRATE], { env: { ...env, ...changes } }, (error, out, err) =>
        resolve({ code: error ? error.code : 0, out, err }),
      );
    });

  test('becomes ready and carries a message, and its log does not tell the token', async () => {
    expect(await migrate({})).toMatchObject({ code: 0, err: '' });
    await using mesh = await TestMesh.start({ env });
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = await Promise.all([WireClient.connect(mesh.url, ada), WireClient.connect(mesh.url, bob)]);
    a.message(bob, 'over TLS');
    await b.frame(({ content }) => content === 'over TLS', 'the message');
    expect(mesh.process('chat').output).not.toContain(pulsar.token);
  });

  test('with a wrong password or token is not prepared and ends at its start, and tells neither', async () => {
    const [password, token] = [secret('password'), secret('token')];
    const wrong = { SCYLLA_PASSWORD: password, PULSAR_TOKEN: token };
    const startOf = (changes: Changes) =>
      TestMesh.start({ env: { ...env, ...changes } }).then(
        () => 'it has started',
        (error: Error) => error.message,
      );
    const [prepared, ...outputs] = await Promise.all([
      migrate(wrong),
      startOf({ SCYLLA_PASSWORD: password }),
      startOf({ PULSAR_TOKEN: token }),
    ]);
    expect(prepared).toEqual({
      code: 1,
      out: '',
      err: expect.stringMatching(/^Pulsar refuses the token: .*\nCassandra at \S+ refuses the credentials: .*\n$/),
    });
    expect(outputs[0]).toMatch(/chat cannot start: Cassandra at \S+ refuses the credentials: set SCYLLA_USERNAME and/);
    expect(outputs[1]).toMatch(/chat cannot start: Pulsar refuses the token: set PULSAR_TOKEN/);
    for (const known of [password, token, pulsar.token])
      expect(JSON.stringify([prepared, outputs])).not.toContain(known);
  });
});
