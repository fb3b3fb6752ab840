import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LmdbInboxStore } from '@chatmesh/chat';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { createClient, createLogger } from '@chatmesh/mesh';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { admin, brokenFor } from '../operator.js';

const DEADLINE_MS = 400_000;

/** Clients of the present test. */
const clients: WireClient[] = [];
afterEach(() => {
  for (const { socket } of clients.splice(0)) socket.terminate();
});

async function connect(mesh: LocalMesh, user: TestUser): Promise<WireClient> {
  const client = await WireClient.connect(mesh.url, user);
  clients.push(client);
  return client;
}

/** Presence hears of a session some milliseconds after its client does, and what operators are told counts there. */
async function untilPresent(mesh: LocalMesh, { userId }: TestUser, sessions: number): Promise<void> {
  const presence = createClient(SessionService, { address: mesh.presenceAddress });
  try {
    const known = async () => (await presence.listSessions({ userIds: [userId] })).sessions.length;
    await until(async () => (await known()) === sessions, { what: `${sessions} sessions` });
  } finally {
    presence.close();
  }
}

describe('what operators can do', () => {
  let mesh: LocalMesh;

  beforeAll(async () => {
    mesh = await LocalMesh.start({ env: { AUTH_HS256_SECRET: SECRET } });
  }, DEADLINE_MS);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  const pair = async () => (await mesh.users(2)) as [TestUser, TestUser];

  test('a suspended user is thrown out and kept out, and what others send it waits until it may come back', async () => {
    const [ada, bob] = await pair();
    const a = await connect(mesh, ada);
    const b = await connect(mesh, bob);
    await b.frame((f) => f.caught_up, 'caught_up');
    await untilPresent(mesh, bob, 1);
    expect((await admin(mesh, 'suspend', bob.userId, '--json')).json).toEqual([
      { user_id: bob.userId, suspended: true, sessions: 1 },
    ]);
    expect(await b.closed()).toBe(4403);
    await expect(connect(mesh, bob)).rejects.toMatchObject({ status: 403 });
    const id = a.message(bob, 'for when you are back');
    expect((await a.answer(id)).status).toBe('sent');
    expect((await admin(mesh, 'suspend', bob.userId)).exitCode).toBe(0);

    expect(await admin(mesh, 'unsuspend', bob.userId)).toMatchObject({
      exitCode: 0,
      out: [`${bob.userId} may connect and send again.`],
    });
    const back = await connect(mesh, bob);
    await back.frame((f) => f.caught_up, 'caught_up');
    expect(back.messages.map((m) => m.content)).toEqual(['for when you are back']);
    const reply = await back.answer(back.message(ada, 'here I am'));
    expect(reply.status).toBe('sent');
  });

  test('a session that was admitted before its user was suspended, and opens after, ends as well', async () => {
    const [cold, warm] = await pair();
    const client = await connect(mesh, warm);
    await client.frame((f) => f.caught_up, 'caught_up');
    for (const user of [cold, warm]) {
      expect((await admin(mesh, 'suspend', user.userId)).exitCode).toBe(0);
      const closed: number[] = [];
      const nothing = () => {};
      const sink: Parameters<typeof mesh.edge.sessions.open>[1] = {
        bufferedBytes: 0,
        receivedBytes: 0,
        close: (code) => void closed.push(code),
        accepted: nothing,
        event: nothing,
        error: nothing,
        caughtUp: nothing,
        goingAway: nothing,
        ping: nothing,
        pause: nothing,
      };
      // The door is behind it.
      mesh.edge.sessions.open({ ...user, expiresAtMs: Date.now() + 60_000 }, sink);
      await until(() => closed.length > 0, { what: 'the close' });
      expect(closed).toEqual([4403]);
    }
  });

  test('a suspended user cannot send through a back door either', async () => {
    const [ada, bob] = await pair();
    await admin(mesh, 'suspend', ada.userId);
    const backend = createClient(InternalChatService, {
      address: mesh.chatAddress,
      logger: createLogger({ name: 'test', level: 'silent' }),
    });
    try {
      const message = {
        senderId: ada.userId,
        target: { case: 'receiverId' as const, value: bob.userId },
        payload: { case: 'content' as const, value: 'psst' },
        clientMessageId: randomUUID(),
      };
      await expect(backend.sendMessage({ message })).rejects.toMatchObject({ kind: 'permission_denied' });
    } finally {
      backend.close();
    }
  });

  test('close ends the sessions of one device, or of all, and their clients may connect again', async () => {
    const [, bob] = await pair();
    const other = await deviceOf(bob);
    const one = await connect(mesh, bob);
    const two = await connect(mesh, other);
    for (const client of [one, two]) await client.frame((f) => f.caught_up, 'caught_up');
    expect((await admin(mesh, 'close', bob.userId, '--device', other.deviceId)).exitCode).toBe(0);
    expect(await two.closed()).toBe(1008);
    expect(one.closeCode).toBeUndefined();
    const again = await connect(mesh, other);
    await again.frame((f) => f.caught_up, 'caught_up');
    expect((await admin(mesh, 'close', bob.userId)).exitCode).toBe(0);
    expect([await one.closed(), await again.closed()]).toEqual([1008, 1008]);
  });

  test('owner says which router has a user, how its devices stand, and what they wait for', async () => {
    const [ada, bob] = await pair();
    expect((await admin(mesh, 'owner', bob.userId, '--json')).json).toEqual([
      { router: mesh.chatAddress, owner: true },
    ]);
    const b = await connect(mesh, bob);
    await b.frame((f) => f.caught_up, 'caught_up');
    const a = await connect(mesh, ada);
    for (let i = 0; i < 300; i++) a.message(bob, `n${i}`);
    await until(() => b.messages.length >= 256, { what: 'a full window' });
    const waits = 'confirmations of 256 messages';
    await until(
      async () => (await admin(mesh, 'owner', bob.userId, '--json')).json[0].actor.devices[0].waits_for === waits,
      { what: 'the full window in the answer' },
    );
    const [{ actor }] = (await admin(mesh, 'owner', bob.userId, '--json')).json;
    expect(actor).toMatchObject({ suspended: false, waiting_events: 0 });
    expect(actor.devices).toMatchObject([
      { device_id: bob.deviceId, state: 'draining', messages_out: 256, message_window: 256, waits_for: waits },
    ]);
    const { out } = await admin(mesh, 'owner', bob.userId);
    expect(out.join('\n')).toContain(`${mesh.chatAddress} owns ${bob.userId}: active since`);
    expect(out.join('\n')).not.toMatch(/n\d+/);
  });

  test.each([
    ['nobody to suspend', ['suspend', randomUUID()], 1],
    ['nobody whose sessions to close', ['close', randomUUID()], 1],
    ['no id', ['redrive'], 2],
    ['both ids and all', ['discard', '--all', 'x'], 2],
    ['no such dead letter', ['redrive', '00000000000000000001'], 1],
    ['no user', ['owner', 'bob'], 2],
    ['no router', ['dead-letters', '--chat-addresses', '127.0.0.1:1'], 3],
  ])('%s: exit code says so', async (_what, args, exitCode) => {
    const result = await admin(mesh, ...args);
    expect(result.exitCode).toBe(exitCode);
    expect(result.err).not.toBe('');
  });
});

describe('dead letters', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-admin-'));
  const broken = new Set<string>();
  let environment: LmdbEnvironment;
  let mesh: LocalMesh;

  /** A mesh whose inboxes can be broken, by user; started again it finds what was there. */
  const start = async () => {
    mkdirSync(join(dataDir, 'inboxes'), { recursive: true });
    environment = LmdbEnvironment.open(join(dataDir, 'inboxes'));
    const inbox = brokenFor(broken, new LmdbInboxStore(environment));
    mesh = await LocalMesh.start({ dataDir, chat: { inbox, owner: { handlingRetryMs: 1, handlingAttempts: 3 } } });
  };
  const stop = async () => {
    await mesh?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
  };

  beforeAll(start, DEADLINE_MS);
  afterAll(async () => {
    await stop();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const list = async () => (await admin(mesh, 'dead-letters', '--json')).json;

  test('they are listed without content, outlive a restart, and are redriven only when that is honest', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    broken.add(bob.userId);
    const a = await connect(mesh, ada);
    const sent: string[] = [];
    for (const text of ['secret one', 'secret two', 'secret three']) {
      const { server_message_id } = await a.answer(a.message(bob, text));
      sent.push(server_message_id);
    }
    await until(() => a.frames.filter((f) => f.status === 'failed').length >= 3, { what: 'failed, three times' });
    for (const { event_id } of a.frames.filter((f) => f.event_id)) a.send({ ack: [event_id] });

    const letters = await list();
    expect(letters.map((l) => l.event_id)).toEqual(sent);
    expect(letters[0]).toEqual({
      id: expect.any(String),
      kind: 'message',
      user_id: bob.userId,
      sender_id: ada.userId,
      event_id: sent[0],
      at: expect.stringMatching(/^\d{4}-/),
      reason: 'internal: a broken row',
      sender_told: true,
    });
    const text = (await admin(mesh, 'dead-letters', '--limit', '2')).out;
    expect(text).toHaveLength(2);
    expect(text.join('\n')).not.toContain('secret');

    await stop();
    broken.clear();
    await start();
    expect(await list()).toEqual(letters);

    const [first, second, third] = letters.map((l) => l.id as string) as [string, string, string];
    const refused = await admin(mesh, 'redrive', '--all', '--json');
    expect(refused.exitCode).toBe(1);
    expect(refused.json.map((l) => l.outcome)).toEqual(['sender_told', 'sender_told', 'sender_told']);
    expect(await admin(mesh, 'redrive', '--deliver-failed', second, first)).toMatchObject({ exitCode: 0 });
    expect((await admin(mesh, 'discard', third, '--json')).json).toEqual([{ id: third, outcome: 'discarded' }]);
    expect(await list()).toEqual([]);

    // In their order, under their ids; and the sender is not told that it did not fail.
    const back = await connect(mesh, ada);
    const b = await connect(mesh, bob);
    await until(() => b.messages.length >= 2, { what: 'two messages' });
    expect(b.messages.map((m) => [m.server_message_id, m.content])).toEqual([
      [sent[0], 'secret one'],
      [sent[1], 'secret two'],
    ]);
    b.confirm('read', ...sent.slice(0, 2));
    const { server_message_id: last } = await back.answer(back.message(bob, 'works again'));
    await b.frame((f) => f.server_message_id === last, 'a new message');
    b.confirm('read', last);
    await back.frame((f) => f.status === 'read' && f.server_message_id === last, 'its receipt');
    expect(back.frames.filter((f) => f.status !== 'failed' && sent.includes(f.server_message_id))).toEqual([]);
    await b.close();
    const again = await connect(mesh, bob);
    await again.frame((f) => f.caught_up, 'caught_up');
    expect(again.messages).toEqual([]);
  });
});
