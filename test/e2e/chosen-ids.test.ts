import { randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type InboxStore, LmdbInboxStore, LmdbStatusStore, type StatusStore } from '@chatmesh/chat';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';

const PER_FRAME = 256;
/** As many as an edge remembers of receipts, and a router of records: more would be forgotten again. */
const MANY = 65_536 + 16_384;

/** What a client may name is anything: ids that nobody sent it, the same one over and over, more than anybody can look up. */
describe('ids that a client chooses', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-chosen-'));
  const asked = new Map<string, number>();
  const updated = new Map<string, number>();
  /** Pages of inboxes that were read, by user. */
  const pages = new Map<string, number>();
  const held = new Set<string>();
  let release = () => {};
  let released = Promise.resolve();
  let environment: LmdbEnvironment;
  let mesh: LocalMesh;

  beforeAll(async () => {
    mkdirSync(join(dataDir, 'statuses'), { recursive: true });
    environment = LmdbEnvironment.open(join(dataDir, 'statuses'));
    const inbox = countingPages(new LmdbInboxStore(environment), pages);
    mesh = await LocalMesh.start({ chat: { statuses: watched(new LmdbStatusStore(environment)), inbox } });
  }, 120_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    await environment?.[Symbol.asyncDispose]();
    rmSync(dataDir, { recursive: true, force: true });
  });

  function watched(store: StatusStore): StatusStore {
    const count = (counts: Map<string, number>, id: string) => counts.set(id, (counts.get(id) ?? 0) + 1);
    return {
      accept: (records) => store.accept(records),
      get: async (ids) => {
        for (const id of ids) count(asked, id);
        if (ids.some((id) => held.has(id))) await released;
        return store.get(ids);
      },
      update: (updates) => {
        for (const { serverMessageId } of updates) count(updated, serverMessageId);
        return store.update(updates);
      },
      expire: (beforeMs) => store.expire(beforeMs),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
  const connect = async (user: TestUser) => {
    const client = await WireClient.connect(mesh.url, user);
    await client.frame((f) => f.caught_up, 'caught_up');
    return client;
  };
  const clients = async (count: number) => Promise.all((await mesh.users(count)).map(connect));
  /** A message and its receipt; resolves with the receipt. */
  const exchange = async (from: WireClient, to: WireClient) => {
    const { server_message_id: id } = await from.answer(from.message(to.user, 'hello'));
    await to.frame((f) => f.server_message_id === id, 'the message');
    to.confirm('delivered', id);
    return from.frame((f) => f.status === 'delivered' && f.server_message_id === id, 'delivered');
  };
  const sessionOf = ({ user }: WireClient) =>
    mesh.edge.sessions.of(user.userId)[0] as NonNullable<unknown> & {
      confirming: number;
      paused: boolean;
    };
  const tailed = (i: number) => `${i.toString(16).padStart(8, '0')}-1111-4111-8111-2222deadbeef`;

  test('acks of what was never sent leave nothing behind, and the messages of others flow meanwhile', async () => {
    const [attacker, ada, bob] = (await clients(3)) as [WireClient, WireClient, WireClient];
    const before = mesh.edge.sessions.acked.size;
    for (let at = 0; at < MANY; at += PER_FRAME)
      attacker.send({ ack: Array.from({ length: PER_FRAME }, (_, i) => tailed(at + i)) });
    for (let i = 0; i < 5; i++) await exchange(ada, bob);
    await until(() => sessionOf(attacker).confirming === 0, { what: 'routers that have dealt with all of it' });
    expect(mesh.edge.sessions.acked.size - before).toBe(5);
    expect(attacker.frames.filter((f) => f.error)).toEqual([]);
    // It can go on as if nothing had happened.
    await exchange(attacker, bob);
  });

  test('an ack of a receipt that was sent counts', async () => {
    const [ada, bob] = (await clients(2)) as [WireClient, WireClient];
    const { event_id } = await exchange(ada, bob);
    expect(mesh.edge.sessions.acked.pushed(event_id, numberOf(ada))).toBe(false);
    ada.send({ ack: [event_id] });
    await until(() => mesh.edge.sessions.acked.pushed(event_id, numberOf(ada)), { what: 'the ack' });
    // Nobody else's ack counts for her, and hers not for others.
    expect(mesh.edge.sessions.acked.pushed(event_id, numberOf(bob))).toBe(false);
  });
  const numberOf = ({ user }: WireClient) => mesh.edge.sessions.of(user.userId)[0]?.number as number;

  test('acks of what was never sent cost little also where much waits for the client', async () => {
    const [ada, bob] = (await clients(2)) as [WireClient, WireClient];
    const messages = 3_000;
    for (let i = 0; i < messages; i++) ada.message(bob.user, `${i}`);
    await until(() => ada.frames.filter((f) => f.status === 'sent').length === messages, { what: 'all accepted' });
    await until(() => bob.messages.length >= PER_FRAME, { what: 'a full window' });
    pages.clear();
    const frames = 20;
    for (let at = 0; at < frames; at++) bob.send({ ack: Array.from({ length: PER_FRAME }, (_, i) => tailed(i)) });
    await until(() => sessionOf(bob).confirming === 0, { what: 'routers that have dealt with all of it' });
    // As far as a window of receipts and one of messages may reach, and not to the end of all that waits.
    expect(pages.get(bob.user.userId) ?? 0).toBeLessThanOrEqual(frames * 8);
    await bob.close();
  });

  test('one id many times in a frame is looked up once, recorded once, and told of once', async () => {
    const [ada, bob] = (await clients(2)) as [WireClient, WireClient];
    const id = (await exchange(ada, bob)).server_message_id;
    await until(() => mesh.edge.sessions.routers.settled, { what: 'an edge without confirmations' });
    asked.clear();
    updated.clear();
    const unknown = randomUUID();
    bob.confirm('read', ...Array.from({ length: PER_FRAME }, () => id));
    bob.confirm('delivered', ...Array.from({ length: PER_FRAME }, () => unknown));
    await ada.frame((f) => f.status === 'read' && f.server_message_id === id, 'read');
    const refusal = await bob.frame((f) => f.error, 'the refusal');
    expect(refusal.error).toEqual({ code: 'not_found', message: `not sent to this user: ${unknown}` });
    await until(() => sessionOf(bob).confirming === 0, { what: 'routers that have dealt with all of it' });
    expect([asked.get(id), updated.get(id), asked.get(unknown)]).toEqual([1, 1, 1]);
    expect(ada.frames.filter((f) => f.status === 'read')).toHaveLength(1);

    // The same while the message is in flight: what the device has is written once, and that it was read once more.
    const { server_message_id: fresh } = await ada.answer(ada.message(bob.user, 'in flight'));
    await bob.frame((f) => f.server_message_id === fresh, 'the message');
    bob.confirm('delivered', ...Array.from({ length: PER_FRAME }, () => fresh));
    bob.confirm('read', ...Array.from({ length: PER_FRAME }, () => fresh));
    await ada.frame((f) => f.status === 'read' && f.server_message_id === fresh, 'read');
    await until(() => sessionOf(bob).confirming === 0, { what: 'routers that have dealt with all of it' });
    expect(updated.get(fresh)).toBeLessThanOrEqual(2);
  });

  test('a client that confirms more than can be looked up is not read meanwhile, and loses nothing', async () => {
    const [ada, bob, carol, dave] = (await clients(4)) as [WireClient, WireClient, WireClient, WireClient];
    const ids: string[] = [];
    const sent = Array.from({ length: PER_FRAME }, (_, i) => ada.message(bob.user, `${i}`));
    for (const id of sent) ids.push((await ada.answer(id)).server_message_id);
    await until(() => bob.messages.length >= PER_FRAME, { what: 'all messages' });
    bob.confirm('delivered', ...ids);
    await until(() => ada.frames.filter((f) => f.status === 'delivered').length >= PER_FRAME, { what: 'delivered' });
    await until(() => mesh.edge.sessions.routers.settled, { what: 'an edge without confirmations' });

    for (const id of ids) held.add(id);
    released = new Promise((resolve) => {
      release = resolve;
    });
    const frames = 100;
    for (let i = 0; i < frames; i++) bob.confirm('read', ...ids);
    await until(() => sessionOf(bob).paused, { what: 'a session that is not read' });
    await exchange(carol, dave);
    // What had been read from the socket already comes on top.
    expect(sessionOf(bob).confirming).toBeLessThan(4096 + (128 * 1024) / 37);
    held.clear();
    release();
    await until(() => ada.frames.filter((f) => f.status === 'read').length >= PER_FRAME, { what: 'read' });
    await until(() => sessionOf(bob).confirming === 0 && !sessionOf(bob).paused, {
      what: 'a session that is read again',
    });
    await exchange(ada, bob);
    expect(ada.frames.filter((f) => f.status === 'read')).toHaveLength(PER_FRAME);
  });
});

function countingPages(store: InboxStore, pages: Map<string, number>): InboxStore {
  return new Proxy(store, {
    get(target, name) {
      if (name === 'page')
        return (...asked: Parameters<InboxStore['page']>) => {
          pages.set(asked[0], (pages.get(asked[0]) ?? 0) + 1);
          return target.page(...asked);
        };
      const value = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
