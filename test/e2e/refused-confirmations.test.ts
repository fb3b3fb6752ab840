import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type InboxStore, LmdbInboxStore, LmdbStatusStore, type StatusStore } from '@chatmesh/chat';
import { UNCLAIMED_DEVICE } from '@chatmesh/chat/domain/ids';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { createClient, createLogger } from '@chatmesh/mesh';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { plain } from '../contract/status-store-model.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';

const ATTEMPTS = 3;
const logger = createLogger({ name: 'test', level: 'silent' });

/** What a status store does to some messages. */
interface Trouble {
  /** How often it refuses to update the record of a message before it takes it. */
  readonly refusals: Map<string, number>;
  /** Messages whose record it does not give. */
  readonly unreadable: Set<string>;
  /** How often it refuses to read the inbox of a user's first device, with which every look at a user begins. */
  readonly unclaimed: Map<string, number>;
}

describe('a store that refuses single rows', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-refused-'));
  const trouble: Trouble = { refusals: new Map(), unreadable: new Set(), unclaimed: new Map() };
  let environment: LmdbEnvironment;
  let statuses: LmdbStatusStore;
  let mesh: LocalMesh;
  const clients: WireClient[] = [];

  beforeAll(async () => {
    mkdirSync(join(dataDir, 'statuses'), { recursive: true });
    environment = LmdbEnvironment.open(join(dataDir, 'statuses'));
    statuses = new LmdbStatusStore(environment);
    mesh = await LocalMesh.start({
      chat: {
        statuses: troubled(statuses, trouble),
        inbox: troubledInbox(new LmdbInboxStore(environment), trouble),
        owner: { handlingRetryMs: 1, handlingAttempts: ATTEMPTS, recordWaitMs: 20_000 },
      },
    });
  }, 120_000);
  afterEach(async () => {
    trouble.refusals.clear();
    trouble.unreadable.clear();
    trouble.unclaimed.clear();
    for (const client of clients.splice(0)) client.socket.terminate();
  });
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
    rmSync(dataDir, { recursive: true, force: true });
  });

  const connect = async (user: TestUser) => {
    const client = await WireClient.connect(mesh.url, user);
    clients.push(client);
    await client.frame((f) => f.caught_up, 'caught_up');
    return client;
  };
  const pair = async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    return { ada, bob, a: await connect(ada), b: await connect(bob) };
  };
  /** Sends a text; resolves with its id when the recipient has it. */
  const deliver = async (from: WireClient, to: WireClient, text: string): Promise<string> => {
    const { server_message_id: id } = await from.answer(from.message(to.user, text));
    await to.frame((f) => f.server_message_id === id && f.content === text, text);
    return id;
  };
  const told = (client: WireClient, status: string, id: string) =>
    client.frame((f) => f.status === status && f.server_message_id === id, `${status} of ${id}`);
  const deadLetters = async () => (await mesh.chat.owner.deadLetters.list(100)).map(({ event }) => event);

  test('one that is refused once is recorded a moment later, and the others with it at once', async () => {
    const { a, b } = await pair();
    const ids = [await deliver(a, b, 'one'), await deliver(a, b, 'two'), await deliver(a, b, 'three')];
    const [first, second, third] = ids as [string, string, string];
    // Refused with the others, then alone; from the log it is taken.
    trouble.refusals.set(second, 2);
    b.confirm('delivered', first, second, third);
    for (const id of ids) await told(a, 'delivered', id);
    await until(async () => (await statuses.get(ids)).every((record) => plain(record)?.deliveredAtMs), {
      what: 'all three on record',
    });
    expect(mesh.chat.owner.counts.refusedConfirmations).toBe(1);
    expect(await deadLetters()).toEqual([]);
  });

  test('one that is always refused is given up after its attempts, and nobody else waits for it', async () => {
    const { a, b } = await pair();
    const other = await pair();
    const poison = await deliver(a, b, 'never on record');
    trouble.refusals.set(poison, Number.POSITIVE_INFINITY);
    b.confirm('delivered', poison);
    // The same stream of the same edge brings all of these.
    const [id, beside] = [await deliver(other.a, other.b, 'hello'), await deliver(a, b, 'beside it')];
    other.b.confirm('delivered', id);
    b.confirm('read', beside);
    await told(other.a, 'delivered', id);
    await told(a, 'read', beside);
    await until(async () => (await deadLetters()).length === 1, { what: 'the dead letter' });
    const [letter] = await deadLetters();
    expect(letter).toMatchObject({
      userId: b.user.userId,
      kind: {
        case: 'confirmation',
        value: { deviceId: b.user.deviceId, status: MessageStatus.DELIVERED, ids: [poison] },
      },
    });
    // It is not sent again: the device has it.
    b.socket.terminate();
    const again = await connect(b.user);
    expect(again.messages).toEqual([]);
    // Edges may forget all of it: a drain has nothing to wait for.
    await until(() => mesh.edge.sessions.routers.settled, { what: 'confirmations that the edge may forget' });
    await until(() => mesh.chat.owner.unacknowledged === 0, { what: 'a log that is done with' });

    trouble.refusals.clear();
    await mesh.chat.owner.deadLetters.redrive([(await mesh.chat.owner.deadLetters.list(1))[0]?.id as string], false);
    await until(async () => (plain((await statuses.get([poison]))[0])?.deliveredAtMs ?? 0) > 0, {
      what: 'it on record',
    });
  });

  test('a late confirmation whose record cannot be read does not keep the stream', async () => {
    const { a, b } = await pair();
    const [old, good] = [await deliver(a, b, 'old'), await deliver(a, b, 'old, too')];
    b.confirm('delivered', old, good);
    await told(a, 'delivered', old);
    await told(a, 'delivered', good);
    await until(() => mesh.edge.sessions.routers.settled, { what: 'an edge without confirmations' });
    trouble.unreadable.add(old);
    b.confirm('read', old, good);
    await told(a, 'read', good);
    await until(() => mesh.edge.sessions.routers.settled, { what: 'an edge without confirmations, again' });
    const letters = () =>
      deadLetters().then((all) => all.filter(({ kind }) => kind.case === 'confirmation' && kind.value.ids[0] === old));
    await until(async () => (await letters()).length === 1, { what: 'the dead letter' });
    await until(() => mesh.chat.owner.unacknowledged === 0, { what: 'a log that is done with' });
  });

  test('a call that confirms is told when that was not recorded, and what it confirms is tried again', async () => {
    const { a, b } = await pair();
    const id = await deliver(a, b, 'confirmed by a call');
    trouble.refusals.set(id, Number.POSITIVE_INFINITY);
    const client = createClient(InternalChatService, { address: mesh.chatAddress, logger });
    const { userId, deviceId } = b.user;
    const request = {
      userId,
      deviceId,
      receipts: [{ status: MessageStatus.READ, serverMessageIds: [id] }],
      eventIds: [],
    };
    await expect(client.confirm(request)).rejects.toMatchObject({ kind: 'internal' });
    trouble.refusals.clear();
    expect((await client.confirm(request)).notFound).toEqual([]);
    // Not a moment later: the answer says that it is there.
    expect(plain((await statuses.get([id]))[0])?.readAtMs).toBeGreaterThan(0);
    client.close();
  });

  test('a user who cannot be looked at once or twice gets everything in order a moment later', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const a = await connect(ada);
    trouble.unclaimed.set(bob.userId, ATTEMPTS - 1);
    const texts = ['one', 'two', 'three'];
    for (const text of texts) a.message(bob, text);
    await until(() => a.frames.filter((f) => f.status === 'sent').length === texts.length, { what: 'all accepted' });
    await until(() => trouble.unclaimed.get(bob.userId) === 0, { what: 'the refusals' });
    const b = await connect(bob);
    expect(b.messages.map((m) => m.content)).toEqual(texts);
  });

  test('what is for a user who cannot be looked at is given up after its attempts, and its sender told', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const a = await connect(ada);
    trouble.unclaimed.set(bob.userId, ATTEMPTS);
    const { server_message_id: id } = await a.answer(a.message(bob, 'to nobody'));
    await told(a, 'failed', id);
    // The next one begins afresh.
    const b = await connect(bob);
    await deliver(a, b, 'to somebody');
  });

  test('a message that nobody can be told of in its record still fails towards its sender', async () => {
    const { ada, a } = await pair();
    const failed = 'ffffffff-0000-4000-8000-000000000001';
    trouble.refusals.set(failed, Number.POSITIVE_INFINITY);
    await mesh.chat.owner.failMessage(
      { serverMessageId: failed, clientMessageId: failed, senderId: ada.userId },
      undefined,
      'undeliverable',
    );
    await told(a, 'failed', failed);
  });
});

function troubledInbox(store: InboxStore, { unclaimed }: Trouble): InboxStore {
  return new Proxy(store, {
    get(target, name) {
      if (name === 'page')
        return async (...asked: Parameters<InboxStore['page']>) => {
          const [userId, deviceId] = asked;
          const left = deviceId === UNCLAIMED_DEVICE ? (unclaimed.get(userId) ?? 0) : 0;
          if (left === 0) return target.page(...asked);
          unclaimed.set(userId, left - 1);
          throw new Error('a row that cannot be read');
        };
      const value = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function troubled(store: StatusStore, { refusals, unreadable }: Trouble): StatusStore {
  return {
    accept: (records) => store.accept(records),
    get: (ids) => {
      if (ids.some((id) => unreadable.has(id))) throw new Error('a row that cannot be read');
      return store.get(ids);
    },
    update: async (updates) => {
      for (const { serverMessageId } of updates) {
        const left = refusals.get(serverMessageId) ?? 0;
        if (left === 0) continue;
        refusals.set(serverMessageId, left - 1);
        throw new Error('a row that cannot be written');
      }
      return store.update(updates);
    },
    expire: (beforeMs) => store.expire(beforeMs),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
