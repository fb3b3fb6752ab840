import { randomUUID } from 'node:crypto';
import { run, type Terminal } from '@chatmesh/cli';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { createClient } from '@chatmesh/mesh';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Frame, WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

describe('chatmesh status --explain', () => {
  let mesh: TestMesh;

  beforeAll(async () => {
    mesh = await TestMesh.start({ env: { AUTH_HS256_SECRET: SECRET } });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  async function call(...args: string[]) {
    const lines = { out: [] as string[], err: [] as string[] };
    const terminal: Terminal = {
      env: {},
      stdin: process.stdin,
      stdout: process.stdout,
      interactive: false,
      columns: 100,
      out: (line) => lines.out.push(line),
      err: (line) => lines.err.push(line),
      progress: () => undefined,
      signal: new AbortController().signal,
    };
    const exitCode = await run(['status', '--explain', '--chat-addresses', mesh.chatAddress, ...args], terminal);
    return { exitCode, out: lines.out.join('\n'), err: lines.err.join('\n') };
  }

  const explained = async (id: string): Promise<Frame> => JSON.parse((await call('--json', id)).out);

  const becomes = (id: string, place: string) =>
    until(async () => (await explained(id)).devices.every((d: { place: string }) => d.place === place), {
      what: place,
    });

  const users = async () => (await mesh.users(3)) as [TestUser, TestUser, TestUser];

  test('tells where a message is, from the inbox to the confirmation, and when each hop was', async () => {
    const [ada, bob] = await users();
    const a = await WireClient.connect(mesh.url, ada);
    const clientId = a.message(bob, 'a secret of two people');
    const { server_message_id: id, timestamp } = await a.answer(clientId);
    await becomes(id, 'inbox');
    expect(await explained(id)).toMatchObject({
      server_message_id: id,
      client_message_id: clientId,
      status: 'sent',
      sender_id: ada.userId,
      receiver_id: bob.userId,
      position: expect.stringMatching(/^[\da-f]+$/),
      hops: [
        { hop: 'received', after_ms: 0 },
        { hop: 'accepted', at: timestamp },
      ],
      devices: [{ device_id: bob.deviceId, place: 'inbox' }],
      copies: [],
    });

    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.server_message_id === id);
    await becomes(id, 'in_flight');
    expect((await explained(id)).devices[0]).toMatchObject({ transmitted_at: expect.any(String), repeats: 0 });

    b.confirm('delivered', id);
    await a.frame((f) => f.status === 'delivered');
    b.confirm('read', id);
    const { timestamp: readAt } = await a.frame((f) => f.status === 'read');
    await becomes(id, 'confirmed');
    const { status, hops } = await explained(id);
    expect(status).toBe('read');
    const names = ['received', 'accepted', 'taken', 'transmitted', 'delivered', 'read'];
    expect(hops.map(({ hop }: { hop: string }) => hop)).toEqual(names);
    const times = hops.map(({ at }: { at: string }) => Date.parse(at));
    expect(times).toEqual([...times].sort((a, b) => a - b));
    expect(hops.at(-1)).toEqual({ hop: 'read', at: readAt, after_ms: times[5] - times[4] });

    const { out, exitCode } = await call(id);
    expect(exitCode).toBe(0);
    expect(out).toContain(`${id} read`);
    expect(out).toContain("taken from the log or the inbox by the recipient's router, ");
    expect(out).toContain(`device ${bob.deviceId}: has confirmed it`);
    expect(out).not.toContain('secret');
    await Promise.all([a.close(), b.close()]);
  });

  test('an older message of a full inbox is found behind others', async () => {
    const [ada, bob] = await users();
    const a = await WireClient.connect(mesh.url, ada);
    const ids: string[] = [];
    for (let n = 0; n < 20; n++) ids.push((await a.answer(a.message(bob, `message ${n}`))).server_message_id);
    for (const id of [ids[0], ids[10], ids[19]] as string[]) await becomes(id, 'inbox');
    await a.close();
  });

  test('a copy is told apart: in the inbox of another device of the sender, and confirmed by it', async () => {
    const [ada, bob] = await users();
    const { deviceId, token } = await deviceOf(ada);
    const laptop = await WireClient.connect(mesh.url, ada, { token });
    await laptop.frame((f) => f.caught_up === true);
    await laptop.close();
    const a = await WireClient.connect(mesh.url, ada);
    const { server_message_id: id } = await a.answer(a.message(bob, 'hello'));
    const copies = async () => (await explained(id)).copies;
    await until(async () => (await copies())[0]?.place === 'inbox', { what: 'the copy in the inbox' });
    expect(await copies()).toEqual([{ device_id: deviceId, place: 'inbox' }]);
    const again = await WireClient.connect(mesh.url, ada, { token });
    await again.frame((f) => f.server_message_id === id);
    again.confirm('delivered', id);
    await until(async () => (await copies())[0]?.place === 'confirmed', { what: 'the confirmation' });
    expect((await explained(id)).status).toBe('sent');
    await Promise.all([a.close(), again.close()]);
  });

  test('a token shows the messages of its user only, sent or received', async () => {
    const [ada, bob, eve] = await users();
    const a = await WireClient.connect(mesh.url, ada);
    const { server_message_id: id } = await a.answer(a.message(bob, 'hello'));
    for (const { token } of [ada, bob]) expect((await call('--token', token, id)).exitCode).toBe(0);
    expect(await call('--token', eve.token, id)).toEqual({
      exitCode: 1,
      out: `${id} unknown`,
      err: '1 of them you neither sent nor received.',
    });
    await a.close();
  });

  test('a message that nobody sent is unknown', async () => {
    const id = randomUUID();
    expect(await call(id)).toEqual({ exitCode: 1, out: `${id} unknown`, err: '1 of them nobody sent.' });
  });

  test('only an operator may ask: the edge does not serve it', async () => {
    const body = JSON.stringify({ serverMessageId: randomUUID() });
    const response = await fetch(`${mesh.httpUrl}/${InternalChatService.typeName}/ExplainMessage`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    });
    expect(response.status).toBe(404);
    const chat = createClient(InternalChatService, { address: mesh.chatAddress });
    await expect(chat.explainMessage({ serverMessageId: 'no uuid' })).rejects.toMatchObject({
      kind: 'invalid_argument',
    });
    chat.close();
  });
});
