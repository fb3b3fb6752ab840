import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

describe('/metrics', () => {
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;

  beforeAll(async () => {
    mesh = await TestMesh.start({ env: { DELIVERY_RETRY_MS: '100' } });
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  const text = async () => (await fetch(`http://127.0.0.1:${mesh.process('chat').adminPort}/metrics`)).text();

  /** The value of a sample that is written exactly so; 0 where it is missing. */
  async function sample(name: string): Promise<number> {
    const line = (await text()).split('\n').find((l) => l.startsWith(`${name} `));
    return Number(line?.slice(name.length + 1) ?? 0);
  }

  const reaches = (name: string, value: number) =>
    until(async () => (await sample(name)) === value, { what: `${name} ${value}` });

  test('one message and its receipt are counted on their way through every service', async () => {
    const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
    await b.frame((f) => f.caught_up === true, 'the end of the backlog');
    const id = a.message(bob, 'hello');
    await a.answer(id);
    const message = await b.frame((f) => f.content === 'hello');
    await reaches('chatmesh_deliveries_unconfirmed', 1);
    expect(await sample('chatmesh_log_unacknowledged')).toBeGreaterThan(0);
    expect(await sample('chatmesh_log_oldest_unacknowledged_seconds')).toBeGreaterThan(0);
    b.confirm('delivered', message.server_message_id);
    const receipt = await a.frame((f) => f.status === 'delivered');
    a.send({ ack: [receipt.event_id] });
    await reaches('chatmesh_log_unacknowledged', 0);
    for (const [name, value] of Object.entries({
      chatmesh_sessions: 2,
      chatmesh_sessions_opened_total: 2,
      chatmesh_live_sessions: 2,
      chatmesh_connections: 2,
      'chatmesh_upgrades_total{status="101"}': 2,
      'chatmesh_frames_received_total{kind="send"}': 1,
      'chatmesh_submits_total{result="accepted"}': 1,
      chatmesh_send_seconds_count: 1,
      chatmesh_accept_to_transmit_seconds_count: 1,
      chatmesh_accept_to_deliver_seconds_count: 1,
      chatmesh_inbox_depth_count: 2,
      'chatmesh_inbox_depth_bucket{le="0"}': 2,
      chatmesh_deliveries_unconfirmed: 0,
      chatmesh_log_oldest_unacknowledged_seconds: 0,
      'chatmesh_log_backlog{topic="events"}': 0,
      'chatmesh_routers{state="connected"}': 1,
      'chatmesh_ready{check="edge"}': 1,
    }))
      await reaches(name, value);
    const answered = 'chatmesh_engine_seconds_count{engine="lmdb",operation="commit",outcome="ok"}';
    expect(await sample(answered)).toBeGreaterThan(0);
    await Promise.all([a.close(), b.close()]);
    await reaches('chatmesh_sessions', 0);
  });

  test('a repeat, a refusal and a message for somebody who is away are told apart', async () => {
    const a = await WireClient.connect(mesh.url, ada);
    const before = await sample('chatmesh_inbox_rows_appended_total');
    const accepted = await sample('chatmesh_submits_total{result="accepted"}');
    const id = a.message(bob, 'while you are away');
    await a.answer(id);
    await reaches('chatmesh_submits_total{result="accepted"}', accepted + 1);
    a.frames.length = 0;
    a.message(bob, 'while you are away', id);
    await a.answer(id);
    await a.answer(a.message(randomUUID(), 'nobody'));
    await reaches('chatmesh_submits_total{result="repeated"}', 1);
    await reaches('chatmesh_submits_total{result="not_found"}', 1);
    await until(async () => (await sample('chatmesh_inbox_rows_appended_total')) > before, { what: 'a row' });
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.content === 'while you are away');
    await until(async () => (await sample('chatmesh_redeliveries_total')) > 0, { what: 'a repeat' });
    b.confirm('delivered', b.messages[0]?.server_message_id);
    await reaches('chatmesh_inbox_depth_sum', 1);
    await Promise.all([a.close(), b.close()]);
  });

  test('public calls are counted by how they ended', async () => {
    const response = await fetch(`${mesh.httpUrl}/chat.v1.ChatService/GetStatus`, {
      method: 'POST',
      headers: { authorization: `Bearer ${ada.token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ serverMessageIds: ['no uuid'] }),
    });
    expect(response.status).toBe(400);
    const labels = 'service="chat.v1.ChatService",method="GetStatus"';
    await reaches(`chatmesh_edge_requests_total{${labels},code="invalid_argument"}`, 1);
    await reaches(`chatmesh_edge_request_seconds_count{${labels}}`, 1);
  });

  test('no sample holds an id or a content', async () => {
    const all = await text();
    for (const secret of [ada.userId, bob.userId, 'hello', 'while you are away']) expect(all).not.toContain(secret);
  });
});
