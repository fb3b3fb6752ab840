import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { InboxStore } from '@chatmesh/chat';
import { MeshError } from '@chatmesh/mesh';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WebSocket } from 'ws';
import { WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';

const DAY_MS = 24 * 3600 * 1000;

/** Rules of the wire contract that take a year, a broken store, or an operator to come true. */
describe('the rules of the wire contract', () => {
  let mesh: LocalMesh;
  let aheadMs = 0;

  beforeAll(async () => {
    mesh = await LocalMesh.start({
      env: { AUTH_HS256_SECRET: SECRET, MAX_CONNECTIONS_PER_USER: '0' },
      chat: { now: () => Date.now() + aheadMs, owner: { handlingRetryMs: 1 } },
      edge: { turnMs: 40 },
    });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  async function pair() {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    return { ada, bob, a: await WireClient.connect(mesh.url, ada) };
  }
  const refusal = (user: TestUser) =>
    WireClient.connect(mesh.url, user).then(
      () => {
        throw new Error('the upgrade was not refused');
      },
      (error) => [error.status, JSON.parse(error.body).error.code],
    );

  test('2: with no device registered a message waits for the first one, which gets all that waited in order', async () => {
    const { ada, bob, a } = await pair();
    await mesh.store.revokeDevice(bob, Date.now());
    const texts = ['one', 'two', 'three'];
    for (const text of texts) await a.answer(a.message(bob, text));
    const first = await WireClient.connect(mesh.url, await deviceOf(bob));
    await first.frame((f) => f.caught_up, 'caught_up');
    expect(first.messages.map((m) => [m.sender_id, m.content])).toEqual(texts.map((text) => [ada.userId, text]));
    const second = await WireClient.connect(mesh.url, await deviceOf(bob));
    await second.frame((f) => f.caught_up, 'caught_up');
    expect(second.messages).toEqual([]);
  });

  test('2: each registered device gets the message until that device has confirmed it', async () => {
    const { a } = await pair();
    const userId = randomUUID();
    const [phone, laptop] = [await deviceOf({ userId }), await deviceOf({ userId })];
    const p = await WireClient.connect(mesh.url, phone);
    await (await WireClient.connect(mesh.url, laptop)).close();
    const { server_message_id: id } = await a.answer(a.message(userId, 'to both'));
    await p.frame((f) => f.server_message_id === id, 'the message at the phone');
    p.confirm('delivered', id);
    await a.frame((f) => f.status === 'delivered' && f.server_message_id === id, 'the receipt');
    const l = await WireClient.connect(mesh.url, laptop);
    await l.frame((f) => f.server_message_id === id && f.content === 'to both', 'the message at the laptop');
    l.confirm('delivered', id);
    // Answered by the same owner after the confirmation: no second receipt, and nothing left for the laptop.
    await l.answer(l.message(a.user, 'after'));
    await l.close();
    await until(
      async () => {
        const again = await WireClient.connect(mesh.url, laptop);
        await again.frame((f) => f.caught_up, 'caught_up');
        const left = again.messages.length;
        await again.close();
        return left === 0;
      },
      { what: 'an empty backlog' },
    );
    expect(a.frames.filter((f) => f.status === 'delivered')).toHaveLength(1);
  });

  test('5: where a user has read receipts off, read counts as delivered', async () => {
    const { ada, bob, a } = await pair();
    await mesh.store.updateSettings(bob.userId, { readReceipts: false });
    const b = await WireClient.connect(mesh.url, bob);
    const { server_message_id: id } = await a.answer(a.message(bob, 'seen?'));
    await b.frame((f) => f.server_message_id === id, 'the message');
    b.confirm('read', id);
    await a.frame((f) => f.status === 'delivered' && f.server_message_id === id, 'delivered');
    await b.answer(b.message(ada, 'after'));
    expect(a.frames.filter((f) => f.status === 'read')).toEqual([]);
  });

  test('9: a block is checked at acceptance; earlier messages still arrive', async () => {
    const { ada, bob, a } = await pair();
    const { server_message_id: early } = await a.answer(a.message(bob, 'before the block'));
    await mesh.store.block(bob.userId, ada.userId, Date.now());
    // Routers know of a block within seconds.
    await until(async () => (await a.answer(a.message(bob, 'after it'))).error?.code === 'permission_denied', {
      timeoutMs: 30_000,
      what: 'the block',
    });
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.server_message_id === early, 'the message before the block');
  });

  test('403 for a revoked device, and for a suspended or deleted user', async () => {
    const [revoked, suspended, deleted] = (await mesh.users(3)) as [TestUser, TestUser, TestUser];
    await mesh.store.revokeDevice(revoked, Date.now());
    await mesh.store.setSuspended(suspended.userId, Date.now());
    await mesh.store.deleteUser(deleted.userId, Date.now());
    for (const user of [revoked, suspended, deleted]) expect(await refusal(user)).toEqual([403, 'permission_denied']);
  });

  test('401 for an unknown sub from our own issuer; another issuer’s is created', async () => {
    const created = await WireClient.connect(mesh.url, await deviceOf({ userId: randomUUID() }));
    await created.frame((f) => f.caught_up, 'caught_up');
    const client = await WireClient.connect(mesh.url, (await mesh.users(1))[0] as TestUser);
    const id = client.message(created.user.userId, 'hello');
    expect((await client.answer(id)).status).toBe('sent');
  });

  test('4408 for a connection that stays silent for 60 s, pings before it, 1013 for one that does not read', async () => {
    const { ada, bob, a } = await pair();
    let pings = 0;
    a.socket.on('ping', () => pings++);
    await until(() => pings > 0, { timeoutMs: 30_000, what: 'a ping' });
    const codes: number[] = [];
    const nothing = () => undefined;
    const sink = {
      ...{ accepted: nothing, event: nothing, error: nothing, caughtUp: nothing, goingAway: nothing, ping: nothing },
      pause: nothing,
      close: (code: number) => void codes.push(code),
      bufferedBytes: 17 * 1024 * 1024,
      receivedBytes: 0,
    };
    mesh.edge.sessions.open({ userId: bob.userId, deviceId: bob.deviceId, expiresAtMs: Number.MAX_VALUE }, sink);
    await until(() => codes.length === 1, { what: 'the close of one that does not read' });
    sink.bufferedBytes = 0;
    mesh.edge.sessions.open({ userId: bob.userId, deviceId: bob.deviceId, expiresAtMs: Number.MAX_VALUE }, sink);
    await until(() => codes.length === 2, { what: 'the close of one that is silent' });
    expect(codes).toEqual([1013, 4408]);
    const back = await WireClient.connect(mesh.url, ada);
    await back.frame((f) => f.caught_up, 'caught_up');
    await back.close();
  });

  test('a client that offers chatmesh.v1.heartbeat hears heartbeats beside the pings; another one does not', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const open = async ({ token }: TestUser, ...offered: string[]) => {
      const socket = new WebSocket(mesh.url, ['chatmesh.v1', ...offered, `bearer.${token}`]);
      const heard = { frames: [] as string[], pings: 0 };
      socket.on('message', (data) => heard.frames.push(String(data)));
      socket.on('ping', () => heard.pings++);
      await once(socket, 'open');
      expect(socket.protocol).toBe('chatmesh.v1');
      return { socket, heard };
    };
    const [asking, other] = [await open(ada, 'chatmesh.v1.heartbeat'), await open(bob)];
    const beats = ({ heard }: typeof asking) => heard.frames.filter((frame) => frame === '{"heartbeat":true}').length;
    await until(() => beats(asking) >= 2 && asking.heard.pings >= 2 && other.heard.pings >= 2, { what: 'heartbeats' });
    expect(beats(other)).toBe(0);
    for (const { socket } of [asking, other]) socket.close();
  });

  test('what was not delivered for 365 days expires: the sender gets failed with code expired, the recipient what is younger', async () => {
    const { bob, a } = await pair();
    const id = a.message(bob, 'too late');
    const { server_message_id } = await a.answer(id);
    // It is accepted before it is in the inbox, under the week in which that happens.
    const { inbox } = mesh.chat.owner;
    await until(async () => (await inbox.page(bob.userId, bob.deviceId, undefined, 1)).length === 1, {
      what: 'the message in the inbox',
    });
    aheadMs = 364 * DAY_MS;
    await mesh.chat.sweeper.sweep();
    await a.answer(a.message(bob, 'in time'));
    expect(a.frames.filter((f) => f.status === 'failed')).toEqual([]);
    // Inboxes are looked through by week.
    aheadMs = 373 * DAY_MS;
    await until(
      async () => {
        await mesh.chat.sweeper.sweep();
        return a.frames.some((f) => f.status === 'failed');
      },
      { what: 'failed' },
    );
    const failed = a.frames.find((f) => f.status === 'failed');
    expect(failed).toMatchObject({ server_message_id, client_message_id: id, code: 'expired' });
    expect(Date.parse(failed.timestamp)).toBeGreaterThan(Date.now() + 365 * DAY_MS);
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.caught_up, 'caught_up');
    expect(b.messages.map((m) => m.content)).toEqual(['in time']);
    a.message(bob, 'too late', id);
    await a.frame((f) => f.deduplicated, 'the repeat');
  });

  test('503 while draining; clients hear going_away, then 1001', async () => {
    const { bob, a } = await pair();
    const drained = mesh.edge.drain(20_000);
    await a.frame((f) => Number.isInteger(f.going_away?.reconnect_after_ms), 'going_away');
    expect(await refusal(bob)).toEqual([503, 'unavailable']);
    expect(await a.closed(20_000)).toBe(1001);
    await drained;
  });
});

describe('a mesh whose inboxes are broken for some', () => {
  let mesh: LocalMesh;
  const refusing = new Set<string>();
  const attempts: string[] = [];

  beforeAll(async () => {
    mesh = await LocalMesh.start({
      chat: { owner: { handlingRetryMs: 1, handlingAttempts: 10 }, inbox: brokenFor(refusing, attempts) },
    });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  test('6: a message that cannot be stored is tried a fixed number of times, then the sender gets failed', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    refusing.add(bob.userId);
    const a = await WireClient.connect(mesh.url, ada);
    const id = a.message(bob, 'nowhere to put it');
    const { server_message_id } = await a.answer(id);
    const failed = await a.frame((f) => f.status === 'failed', 'failed', 20_000);
    expect(failed).toMatchObject({ server_message_id, client_message_id: id, code: 'undeliverable' });
    expect(attempts.length).toBeGreaterThanOrEqual(10);
    // After failed the same id gets the standing status, not a new attempt.
    a.message(bob, 'nowhere to put it', id);
    expect(await a.frame((f) => f.deduplicated, 'the repeat')).toMatchObject({ server_message_id });
    await until(() => a.frames.filter((f) => f.status === 'failed').length >= 2, { what: 'the standing status' });
  });

  test('whoever is still connected when an edge ends without a drain is closed with 1001', async () => {
    const client = await WireClient.connect(mesh.url, (await mesh.users(1))[0] as TestUser);
    await mesh.edge[Symbol.asyncDispose]();
    expect(await client.closed()).toBe(1001);
  });
});

/** An inbox that refuses the rows of some users for another reason than an outage. */
function brokenFor(users: ReadonlySet<string>, attempts: string[]): InboxStore {
  return {
    append: async (rows: readonly { userId: string }[]) => {
      if (!rows.some(({ userId }) => users.has(userId))) return;
      attempts.push('append');
      throw new MeshError('internal', 'a broken row');
    },
    page: async () => [],
    remove: async () => {},
    aged: async () => [],
    forgetWeeks: async () => {},
  } as unknown as InboxStore;
}
