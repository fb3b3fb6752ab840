import { randomBytes, randomUUID } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  ChatService,
  readConfig as chatConfig,
  LmdbInboxStore,
  LmdbMessageLog,
  LmdbStatusStore,
  type StatusStore,
} from '@chatmesh/chat';
import { EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger, EnvReader, MeshError, Metrics, monotonicMs } from '@chatmesh/mesh';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { PresenceService } from '@chatmesh/presence';
import { History } from '@chatmesh/sdk/testing';
import { UserService } from '@chatmesh/user';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { WireClient } from '../client.js';
import { AttemptsModel } from '../contract/attempts-model.js';
import { type TestUser, until } from '../mesh.js';
import { operator } from '../operator.js';
import { judge, Speaker } from '../speaker.js';

/** So many that each router has some: half of all keys are a router's. */
const USERS = 16;
/** Messages that have to flow before and after each change. */
const ENOUGH = 200;
const logger = createLogger({ name: 'test', level: 'silent' });

/** Users move between routers while their sessions stay: one edge, two routers on the same log and stores. */
describe('ownership that moves while the session stays', () => {
  const closing: (() => unknown)[] = [];
  const metrics = () => new Metrics({ processMetrics: false });
  let routerPorts: number[];
  let userPort: number;
  let edge: EdgeService;
  let users: TestUser[];
  let startRouter: (index: number, overrides?: { statuses?: StatusStore }) => Promise<ChatService>;
  let statuses: LmdbStatusStore;

  beforeAll(async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-routers-'));
    closing.push(() => rmSync(dataDir, { recursive: true, force: true }));
    const [directoryPort, presencePort, edgePort, h2Port, ...ports] = (await freePorts(6)) as [
      number,
      number,
      number,
      number,
    ];
    routerPorts = ports;
    userPort = directoryPort;
    const host = '127.0.0.1';
    const env = (more: Record<string, string>) =>
      new EnvReader({
        DATA_DIR: dataDir,
        SEND_RATE: '0',
        EDGE_HOST: host,
        EDGE_PORT: String(edgePort),
        EDGE_H2_PORT: String(h2Port),
        USER_PORT: String(userPort),
        PRESENCE_PORT: String(presencePort),
        CHAT_ADDRESSES: routerPorts.map((port) => `${host}:${port}`).join(),
        ...more,
      });

    const user = await UserService.create({ host, port: userPort, dataDir }, { logger, metrics: metrics() });
    closing.push(() => user[Symbol.asyncDispose]());
    await user.start();
    const presence = await PresenceService.create({ host, port: presencePort }, { logger, metrics: metrics() });
    closing.push(() => presence[Symbol.asyncDispose]());
    await presence.start();

    const shared = join(dataDir, 'shared');
    mkdirSync(shared);
    const environment = LmdbEnvironment.open(shared);
    closing.push(() => environment[Symbol.asyncDispose]());
    const stores = {
      log: LmdbMessageLog.open(environment, 'log'),
      deadLetters: LmdbMessageLog.open(environment, 'dead'),
      inbox: new LmdbInboxStore(environment),
      statuses: new LmdbStatusStore(environment),
    };
    closing.push(() => stores.log[Symbol.asyncDispose]());
    closing.push(() => stores.deadLetters[Symbol.asyncDispose]());
    const key = randomBytes(32);
    const attempts = new AttemptsModel(monotonicMs);
    statuses = stores.statuses;
    startRouter = async (index, overrides = {}) => {
      // Its lock is its own; the key of the fingerprints is everybody's.
      const own = join(dataDir, `router-${index}`);
      mkdirSync(join(own, 'chat'), { recursive: true });
      writeFileSync(join(own, 'chat', 'fingerprint.key'), key);
      const config = chatConfig(env({ DATA_DIR: own, CHAT_PORT: String(routerPorts[index]) }));
      const router = await ChatService.create(
        config,
        { logger, metrics: metrics() },
        {
          ...stores,
          attempts: attempts.of(`router-${index}`),
          ...overrides,
        },
      );
      await router.start();
      return router;
    };
    const first = await startRouter(0);
    closing.push(() => first[Symbol.asyncDispose]());

    edge = await EdgeService.create(edgeConfig(env({})), { logger, metrics: metrics() });
    closing.push(() => edge[Symbol.asyncDispose]());
    await edge.start();
    await until(() => edge.ready, { what: 'a router' });

    const directory = createClient(DirectoryService, { address: `${host}:${userPort}`, logger });
    ({ users } = await directory.createUsers({ contactNumber: '+15550000000', name: 'Test', count: USERS }));
    directory.close();
  }, 120_000);
  afterAll(async () => {
    for (const close of closing.reverse()) await close();
  });

  test('a router joins and leaves while clients talk: nothing is lost, repeated, doubled or reordered', async () => {
    const history = new History();
    const url = `ws://127.0.0.1:${edge.port}/connect`;
    const speakers = users.map((user) => new Speaker(url, user, history));
    for (const [i, speaker] of speakers.entries()) speaker.talkTo(users[i ^ 1]?.userId as string);
    const total = (count: (speaker: Speaker) => number) => speakers.reduce((sum, speaker) => sum + count(speaker), 0);
    const traffic = async (what: string) => {
      const [accepted, got] = [total((s) => s.accepted), total((s) => s.got.size)];
      await until(() => total((s) => s.accepted) > accepted + ENOUGH && total((s) => s.got.size) > got + ENOUGH, {
        timeoutMs: 60_000,
        what,
      });
    };

    await traffic('traffic');
    for (const round of [1, 2, 3]) {
      const second = await startRouter(1);
      await until(() => second.owner.recipients > 0, {
        timeoutMs: 30_000,
        what: `users on the second router, ${round}`,
      });
      await traffic(`traffic through two routers, ${round}`);
      await second.drain(20_000);
      await second[Symbol.asyncDispose]();
      await traffic(`traffic after the second router has left, ${round}`);
    }
    await judge(speakers, history);
  }, 300_000);

  test('a router that is cut off from its stores is passed by while another one accepts, and taken again after', async () => {
    const history = new History();
    const url = `ws://127.0.0.1:${edge.port}/connect`;
    let cut = false;
    const second = await startRouter(1, { statuses: cuttable(statuses, () => cut) });
    closing.push(() => second[Symbol.asyncDispose]());
    await until(() => edge.sessions.routers.reach.connected === 2, { what: 'both routers' });
    const speakers = users.map((user) => new Speaker(url, user, history));
    for (const [i, speaker] of speakers.entries()) speaker.talkTo(users[i ^ 1]?.userId as string);
    const everybodySends = async (what: string) => {
      const before = speakers.map(({ accepted }) => accepted);
      await until(() => speakers.every(({ accepted }, i) => accepted > (before[i] ?? 0) + 20), { what });
    };

    await everybodySends('traffic through both routers');
    cut = true;
    await until(() => edge.sessions.routers.reach.failing === 1, { what: 'the refusals to be noticed' });
    // Some of them had the second router before, and are answered although it still refuses.
    await everybodySends('everybody to be accepted by the first router');
    // It is tried again now and then, and refuses again.
    await until(() => edge.sessions.routers.reach.failing === 1, { what: 'the next refusal' });
    cut = false;
    await until(() => edge.sessions.routers.reach.connected === 2, { timeoutMs: 30_000, what: 'another try' });
    await everybodySends('traffic through both routers again');
    await judge(speakers, history);
  }, 300_000);

  test('a device that one router was told of gets copies of what another one accepts from then on', async () => {
    const routerAt = (index: number) =>
      createClient(InternalChatService, { address: `127.0.0.1:${routerPorts[index]}`, logger });
    const [one, other] = [routerAt(0), routerAt(1)];
    const directory = createClient(DirectoryService, { address: `127.0.0.1:${userPort}`, logger });
    try {
      const made: { users: TestUser[] } = await directory.createUsers({
        contactNumber: '+15560000000',
        name: 'Test',
        count: 2,
      });
      const [ada, bob] = made.users as [TestUser, TestUser];
      const send = async (router: typeof one) => {
        const { accepted } = await router.sendMessage({
          message: {
            senderId: ada.userId,
            target: { case: 'receiverId', value: bob.userId },
            clientMessageId: randomUUID(),
            payload: { case: 'content', value: 'for all of my devices' },
          },
          senderDeviceId: ada.deviceId,
        });
        return accepted?.serverMessageId ?? '';
      };
      for (const [accepting, told] of [
        [one, other],
        [other, one],
      ] as const) {
        // The other one may have had the sender before: from the second message on it goes by what it knows.
        for (let i = 0; i < 2; i++) await send(accepting);
        const devices = [{ userId: ada.userId, deviceId: randomUUID() }];
        await directory.admitDevices({ devices });
        await told.announceDevices({ devices });
        const ids = [await send(accepting), await send(accepting)];
        const deviceId = devices[0]?.deviceId ?? '';
        const waiting = async () =>
          (await told.listInbox({ userId: ada.userId, deviceId, limit: 100 })).entries.map(({ id }) => id);
        await until(async () => (await waiting()).length >= ids.length, { what: 'the copies' });
        expect(await waiting()).toEqual(ids);
      }
    } finally {
      for (const client of [one, other, directory]) client.close();
    }
  }, 120_000);

  test('status --explain asks all routers: what is in flight only the owner of its recipient knows', async () => {
    const url = `ws://127.0.0.1:${edge.port}/connect`;
    const clients = await Promise.all(users.map((user) => WireClient.connect(url, user)));
    const ids: string[] = [];
    for (const [i, client] of clients.entries()) {
      await client.frame((f) => f.caught_up === true);
      ids.push((await client.answer(client.message(users[i ^ 1] as TestUser, 'hello'))).server_message_id);
    }
    for (const [i, id] of ids.entries()) await clients[i ^ 1]?.frame((f) => f.server_message_id === id);
    const placesBy = async (...ports: (number | undefined)[]) => {
      const addresses = ports.map((port) => `127.0.0.1:${port}`).join();
      const { json } = await operator({ CHAT_ADDRESSES: addresses }, 'status', '--explain', '--json', ...ids);
      return json.map(({ devices }) => devices.map(({ place }: { place: string }) => place).join());
    };
    expect(await placesBy(...routerPorts)).toEqual(ids.map(() => 'in_flight'));
    const [byFirst, bySecond] = [await placesBy(routerPorts[0]), await placesBy(routerPorts[1])];
    expect(byFirst).toContain('in_flight');
    expect(bySecond).toEqual(
      byFirst.map((place) => (place === 'in_flight' ? expect.not.stringMatching(place) : 'in_flight')),
    );
    await Promise.all(clients.map((client) => client.close()));
  });
});

/** Status records that a router cannot reach while `cut` says so. */
function cuttable(store: StatusStore, cut: () => boolean): StatusStore {
  const through = <A extends unknown[], R>(call: (...args: A) => Promise<R>) => {
    return async (...args: A): Promise<R> => {
      if (cut()) throw new MeshError('unavailable', 'the network is cut');
      return call(...args);
    };
  };
  return {
    accept: through((records) => store.accept(records)),
    get: through((ids) => store.get(ids)),
    update: through((updates) => store.update(updates)),
    expire: through((beforeMs) => store.expire(beforeMs)),
    [Symbol.asyncDispose]: async () => undefined,
  };
}
