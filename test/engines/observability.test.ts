import { randomBytes } from 'node:crypto';
import { InternalChatService, MessagePlaceKind } from '@chatmesh/gen/chat/v1/internal';
import { createClient } from '@chatmesh/mesh';
import { importPulsar } from '@chatmesh/mesh/pulsar';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { Collector } from '../collector.js';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { dropKeyspace, scyllaConfig } from './cassandra-engine.js';
import { logAndStoresEnv, migrate } from './engines-env.js';
import { newDatabase, sharedUrl } from './postgres-server.js';
import { pulsarUrl } from './pulsar-engine.js';

describe('a mesh on Pulsar, Cassandra, Redis and PostgreSQL', () => {
  const name = `observed_${randomBytes(6).toString('hex')}`;
  const scylla = scyllaConfig(name);
  let database: Awaited<ReturnType<typeof newDatabase>>;
  let collector: Collector;
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;

  beforeAll(async () => {
    database = await newDatabase(sharedUrl());
    collector = await Collector.start();
    const env = {
      DATABASE_URL: database.url,
      ...logAndStoresEnv(name, 1),
      REDIS_URL: process.env.REDIS_URL,
      REDIS_PREFIX: `${name}:`,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_TRACES_SAMPLER_ARG: '1',
    };
    migrate(env);
    mesh = await TestMesh.start({ env });
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    collector?.close();
    await dropKeyspace(scylla);
    await database?.drop();
  });

  const text = async () => (await fetch(`http://127.0.0.1:${mesh.process('chat').adminPort}/metrics`)).text();

  test('a message that is followed names its trace on the topic, too', async () => {
    const { Client, MessageId } = await importPulsar();
    const client = new Client({ serviceUrl: pulsarUrl, log: () => {} });
    const topic = `persistent://chatmesh/${name}/events-partition-0`;
    const reader = await client.createReader({ topic, startMessageId: MessageId.latest() });
    const a = await WireClient.connect(mesh.url, ada);
    expect(await a.answer(a.message(bob, 'hello'))).toMatchObject({ status: 'sent' });
    await until(() => collector.spans.some((span) => span.name === 'chat.accept'), { what: 'the acceptance' });
    const accept = collector.spans.find((span) => span.name === 'chat.accept');
    let traceparent: string | undefined;
    // Claims of the router lie between the events.
    for (let n = 0; n < 200 && traceparent === undefined; n++)
      traceparent = (await reader.readNext()).getProperties().traceparent;
    expect(traceparent).toBe(`00-${accept?.traceId}-${accept?.spanId}-01`);
    await reader.close();
    await client.close();
    await a.close();
  });

  test('a message is found in the inbox, and then with the device that has confirmed it', async () => {
    const chat = createClient(InternalChatService, { address: mesh.chatAddress });
    const place = async (serverMessageId: string) =>
      (await chat.explainMessage({ serverMessageId })).places.find(({ deviceId }) => deviceId === bob.deviceId)?.kind;
    const becomes = (id: string, kind: MessagePlaceKind) =>
      until(async () => (await place(id)) === kind, { what: MessagePlaceKind[kind] });
    const a = await WireClient.connect(mesh.url, ada);
    const ids: string[] = [];
    for (let n = 0; n < 3; n++) ids.push((await a.answer(a.message(bob, `for later ${n}`))).server_message_id);
    for (const id of ids) await becomes(id, MessagePlaceKind.INBOX);
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.server_message_id === ids[2]);
    b.confirm('delivered', ids[1] as string);
    await becomes(ids[1] as string, MessagePlaceKind.CONFIRMED);
    await becomes(ids[2] as string, MessagePlaceKind.IN_FLIGHT);
    await Promise.all([a.close(), b.close()]);
    chat.close();
  });

  test('every engine tells how it answers, and the log what waits on it', async () => {
    const b = await WireClient.connect(mesh.url, bob);
    const { server_message_id: id } = await b.frame((f) => f.content === 'hello');
    b.confirm('delivered', id);
    for (const [engine, operation] of [
      ['pulsar', 'publish'],
      ['cassandra', 'read'],
      ['cassandra', 'write'],
      ['redis', 'script'],
      ['postgresql', 'connect'],
      ['postgresql', 'statement'],
    ]) {
      const sample = `chatmesh_engine_seconds_count{engine="${engine}",operation="${operation}",outcome="ok"}`;
      await until(async () => Number((await text()).split(`${sample} `)[1]?.split('\n')[0] ?? 0) > 0, { what: sample });
    }
    for (const topic of ['events', 'dead-letters'])
      await until(
        async () => /\d/.test((await text()).split(`chatmesh_log_backlog{topic="${topic}"} `)[1]?.[0] ?? ''),
        {
          what: `the backlog of ${topic}`,
        },
      );
    await b.close();
  });
});
