import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrateLog, readConfig } from '@chatmesh/chat';
import { CassandraInboxStore, migrateStores } from '@chatmesh/chat/scylla';
import { EnvReader } from '@chatmesh/mesh';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { admin, brokenFor } from '../operator.js';
import { dropKeyspace, scyllaConfig } from './cassandra-engine.js';
import { logAndStoresEnv } from './engines-env.js';

const START_MS = 120_000;

const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-admin-'));
const broken = new Set<string>();
const scylla = scyllaConfig();
const env = logAndStoresEnv(scylla.keyspace, 4);
let cassandra: Cassandra;
let mesh: LocalMesh;

async function start(): Promise<void> {
  cassandra = await Cassandra.connect(scylla);
  const inbox = brokenFor(broken, new CassandraInboxStore(cassandra));
  mesh = await LocalMesh.start({ dataDir, env, chat: { inbox, owner: { handlingRetryMs: 1, handlingAttempts: 3 } } });
}

async function stop(): Promise<void> {
  await mesh?.[Symbol.asyncDispose]();
  await cassandra?.[Symbol.asyncDispose]();
}

beforeAll(async () => {
  const { pulsar } = readConfig(new EnvReader(env));
  if (!pulsar) throw new Error('PULSAR_URL has to name the Pulsar of these tests');
  await Promise.all([migrateLog(pulsar), migrateStores(scylla)]);
  await start();
}, START_MS);
afterAll(async () => {
  await stop();
  await dropKeyspace(scylla);
  rmSync(dataDir, { recursive: true, force: true });
});

test('on Pulsar and Cassandra dead letters outlive a restart, are redriven once, and an owner is found', async () => {
  const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  broken.add(bob.userId);
  const a = await WireClient.connect(mesh.url, ada);
  const sent: string[] = [];
  for (const text of ['one', 'two', 'three'])
    sent.push((await a.answer(a.message(bob, text))).server_message_id as string);
  await until(() => a.frames.filter((f) => f.status === 'failed').length === 3, { what: 'failed, three times' });
  a.socket.terminate();
  const list = async () => (await admin(mesh, 'dead-letters', '--json')).json;
  const letters = await list();
  expect(letters.map((l) => l.event_id)).toEqual(sent);

  await stop();
  broken.clear();
  await start();
  expect(await list()).toEqual(letters);
  const [first, second, third] = letters.map((l) => l.id as string) as [string, string, string];
  expect((await admin(mesh, 'discard', second)).exitCode).toBe(0);
  expect((await admin(mesh, 'redrive', '--all')).exitCode).toBe(1);
  expect((await admin(mesh, 'redrive', '--deliver-failed', first, third)).exitCode).toBe(0);
  expect(await list()).toEqual([]);

  const b = await WireClient.connect(mesh.url, bob);
  await until(() => b.messages.length === 2, { what: 'two messages' });
  expect(b.messages.map((m) => [m.server_message_id, m.content])).toEqual([
    [sent[0], 'one'],
    [sent[2], 'three'],
  ]);
  const [found] = (await admin(mesh, 'owner', bob.userId, '--json')).json;
  expect(found).toMatchObject({ router: mesh.chatAddress, owner: true });
  expect(found.actor.devices[0]).toMatchObject({ device_id: bob.deviceId, messages_out: 2 });
  expect((await admin(mesh, 'close', bob.userId)).exitCode).toBe(0);
  expect(await b.closed()).toBe(1008);
  expect((await admin(mesh, 'suspend', bob.userId)).exitCode).toBe(0);
  await expect(WireClient.connect(mesh.url, bob)).rejects.toMatchObject({ status: 403 });
});
