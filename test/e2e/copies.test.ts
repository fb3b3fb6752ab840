import { randomUUID } from 'node:crypto';
import type { DirectoryClient, DirectoryUser } from '@chatmesh/chat';
import { EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { FakeRouter } from '../fake-router.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';

const MAX_AGE_MS = 1_500;
const logger = createLogger({ name: 'test', level: 'silent' });

/** The directory, whose answers can be held back after they were given. */
class HeldDirectory implements DirectoryClient {
  /** Whose answers are held. */
  holds: string | undefined;
  readonly #held: (() => void)[] = [];
  readonly #address: () => string;
  #client: ReturnType<typeof createClient<typeof DirectoryService>> | undefined;

  constructor(address: () => string) {
    this.#address = address;
  }

  get holding(): number {
    return this.#held.length;
  }

  release(): void {
    this.holds = undefined;
    for (const go of this.#held.splice(0)) go();
  }

  close(): void {
    this.#client?.close();
  }

  async resolve(userIds: readonly string[]): Promise<DirectoryUser[]> {
    this.#client ??= createClient(DirectoryService, { address: this.#address(), logger });
    const { users } = await this.#client.resolveUsers({ userIds: [...userIds] });
    if (this.holds !== undefined && userIds.includes(this.holds)) await new Promise<void>((go) => this.#held.push(go));
    return users.map((user) => ({ ...user, blockedUserIds: new Set(user.blockedUserIds) }));
  }
}

describe('a copy for the sender’s other devices', () => {
  let mesh: LocalMesh;
  let directory: HeldDirectory;

  beforeAll(async () => {
    directory = new HeldDirectory(() => mesh.userAddress);
    mesh = await LocalMesh.start({
      env: { AUTH_HS256_SECRET: SECRET },
      chat: { directory, directoryMaxAgeMs: MAX_AGE_MS },
    });
  }, 120_000);
  afterAll(async () => {
    directory.close();
    await mesh[Symbol.asyncDispose]();
  });

  const connected = async (user: TestUser) => {
    const client = await WireClient.connect(mesh.url, user);
    await client.frame((f) => f.caught_up === true);
    return client;
  };
  /** Nothing that the router knew of users before serves any more. */
  const forgotten = async () => {
    const since = performance.now();
    await until(() => performance.now() - since > MAX_AGE_MS, { what: 'the cache to expire' });
  };

  test('comes where what is known of the sender expires while the recipient is looked up', async () => {
    const [ada, bob, cid] = (await mesh.users(3)) as [TestUser, TestUser, TestUser];
    const [phone, laptop] = [await connected(ada), await connected(await deviceOf(ada))];
    await forgotten();
    await phone.answer(phone.message(bob, 'now the sender is known'));
    directory.holds = cid.userId;
    const id = phone.message(cid.userId, 'to somebody unknown');
    await until(() => directory.holding > 0, { what: 'the look-up' });
    await forgotten();
    directory.release();
    expect(await phone.answer(id)).toMatchObject({ status: 'sent' });
    await laptop.frame((f) => f.content === 'to somebody unknown', 'the copy');
    await Promise.all([phone.close(), laptop.close()]);
  }, 60_000);

  test('comes to a device that is registered while the sender is being looked up', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const phone = await connected(ada);
    await forgotten();
    directory.holds = ada.userId;
    const first = phone.message(bob, 'before');
    await until(() => directory.holding > 0, { what: 'the look-up' });
    const laptop = await connected(await deviceOf(ada));
    directory.release();
    await phone.answer(first);
    await phone.answer(phone.message(bob, 'after it was caught up'));
    await laptop.frame((f) => f.content === 'after it was caught up', 'the copy');
    await Promise.all([phone.close(), laptop.close()]);
  }, 60_000);

  test('a user who was looked up in vain sends as soon as the first device is there', async () => {
    const [bob] = (await mesh.users(1)) as [TestUser];
    const friend = await connected(bob);
    const newcomer = await deviceOf({ userId: randomUUID() });
    directory.holds = newcomer.userId;
    const early = friend.message(newcomer.userId, 'are you there?');
    await until(() => directory.holding > 0, { what: 'the look-up' });
    const client = await WireClient.connect(mesh.url, newcomer);
    directory.release();
    expect(await friend.answer(early)).toMatchObject({ error: { code: 'not_found' } });
    expect(await client.answer(client.message(bob, 'I am'))).toMatchObject({ status: 'sent' });
    await Promise.all([friend.close(), client.close()]);
  }, 60_000);

  test('new devices are made known to the routers that accept for their users', async () => {
    const routers = [await FakeRouter.start(), await FakeRouter.start()];
    const [port, h2Port] = await freePorts(2);
    const env = new EnvReader({
      ...{ EDGE_HOST: '127.0.0.1', EDGE_PORT: String(port), EDGE_H2_PORT: String(h2Port), AUTH_HS256_SECRET: SECRET },
      USER_ADDRESS: mesh.userAddress,
      PRESENCE_ADDRESS: mesh.presenceAddress,
      CHAT_ADDRESSES: routers.map(({ address }) => address).join(),
    });
    const edge = await EdgeService.create(edgeConfig(env), { logger, metrics: new Metrics({ processMetrics: false }) });
    await edge.start();
    await until(() => edge.sessions.routers.reach.connected === 2, { what: 'both routers' });
    const devices = await Promise.all(Array.from({ length: 16 }, () => deviceOf({ userId: randomUUID() })));
    const url = `ws://127.0.0.1:${edge.port}/connect`;
    const clients = await Promise.all(devices.map((device) => WireClient.connect(url, device)));
    const opened = (router: FakeRouter) => router.requests.flatMap(({ openedSessions }) => openedSessions);
    await until(() => routers.flatMap(opened).length >= devices.length, { what: 'the sessions' });
    for (const router of routers) {
      const accepts = new Set(opened(router).map(({ userId }) => userId));
      expect(accepts.size).toBeGreaterThan(0);
      expect(new Set(router.announcedDevices.map(({ userId }) => userId))).toEqual(accepts);
    }
    await Promise.all(clients.map((client) => client.close()));
    await edge[Symbol.asyncDispose]();
    for (const router of routers) await router[Symbol.asyncDispose]();
  }, 60_000);
});
