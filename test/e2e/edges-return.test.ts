import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  ChatService,
  readConfig as chatConfig,
  type DirectoryClient,
  type DirectoryUser,
  type LocatedSession,
  type SessionFinder,
} from '@chatmesh/chat';
import { EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { type RouteRequest, RouteRequestSchema, type RouteResponse, RouterService } from '@chatmesh/gen/chat/v1/router';
import { createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { PresenceService } from '@chatmesh/presence';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { FakeRouter } from '../fake-router.js';
import { until } from '../mesh.js';

const ACTORS = 500;
const EDGES = 10;
const host = '127.0.0.1';
const logger = createLogger({ name: 'test', level: 'silent' });
const deps = () => ({ logger, metrics: new Metrics({ processMetrics: false }) });

/** A directory in which everybody is, with one device, and that counts who is asked for. */
class CountingDirectory implements DirectoryClient {
  asked = 0;

  constructor(readonly deviceOf: ReadonlyMap<string, string>) {}

  async resolve(userIds: readonly string[]): Promise<DirectoryUser[]> {
    this.asked += userIds.length;
    return userIds.map((userId) => ({
      userId,
      deviceIds: [this.deviceOf.get(userId) ?? randomUUID()],
      blockedUserIds: new Set(),
      readReceipts: true,
      suspended: false,
    }));
  }
}

class CountingPresence implements SessionFinder {
  asked = 0;
  readonly located = new Map<string, LocatedSession[]>();

  async sessions(userId: string): Promise<LocatedSession[]> {
    this.asked++;
    return this.located.get(userId) ?? [];
  }
}

describe('an edge that connects to a router', () => {
  const closing: (() => unknown)[] = [];
  const users = new Map(Array.from({ length: ACTORS }, () => [randomUUID() as string, randomUUID() as string]));
  const directory = new CountingDirectory(users);
  const presence = new CountingPresence();
  let router: ChatService;
  let address: string;

  beforeAll(async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-return-'));
    closing.push(() => rmSync(dataDir, { recursive: true, force: true }));
    const [port] = await freePorts(1);
    address = `${host}:${port}`;
    const config = chatConfig(new EnvReader({ DATA_DIR: dataDir, CHAT_PORT: String(port) }));
    router = await ChatService.create(config, deps(), { directory, presence });
    closing.push(() => router[Symbol.asyncDispose]());
    await router.start();
  }, 60_000);
  afterAll(async () => {
    for (const close of closing.reverse()) await close();
  });

  /** Makes the router the owner of these users. */
  const own = async (userIds: readonly string[]) => {
    const client = createClient(InternalChatService, { address, logger });
    const asked = presence.asked + userIds.length;
    const devices = userIds.map((userId) => ({ userId, deviceId: users.get(userId) ?? randomUUID() }));
    await client.announceDevices({ devices });
    await until(
      () => presence.asked === asked && userIds.every((id) => router.owner.actor(id)?.describe().waitsFor === ''),
      {
        what: 'the users to be loaded',
      },
    );
    client.close();
  };

  /** An edge by hand: says hello and shows what the router says. */
  const connect = async (edgeId: string) => {
    const client = createClient(RouterService, { address, logger });
    const call = client.route();
    const responses: RouteResponse[] = [];
    call.onMessage((response) => responses.push(response));
    call.onClose(() => {});
    const say = (request: MessageInitShape<typeof RouteRequestSchema>) =>
      call.write(create(RouteRequestSchema, request) as RouteRequest);
    closing.push(() => client.close());
    closing.push(() => call.end());
    say({ hello: { edgeId } });
    await until(() => responses.length > 0, { what: 'the welcome' });
    return { say, responses, wanted: () => responses.flatMap(({ wanted }) => wanted) };
  };

  test(`asks neither directory nor presence for the router's users: ${ACTORS} users, ${EDGES} edges`, async () => {
    await own([...users.keys()]);
    const before = { directory: directory.asked, presence: presence.asked };
    expect(router.owner.recipients).toBe(ACTORS);
    const edges = await Promise.all(Array.from({ length: EDGES }, () => connect(randomUUID())));
    const announced = [...users].slice(0, EDGES);
    for (const [i, { say }] of edges.entries()) {
      const [userId, deviceId] = announced[i] as [string, string];
      say({ openedSessions: [{ session: 1, userId, deviceId }] });
    }
    await until(() => edges.every(({ responses }) => responses.some(({ attach }) => attach.length > 0)), {
      what: 'a session of each edge to be attached',
    });
    expect({ directory: directory.asked, presence: presence.asked }).toEqual(before);
  }, 60_000);

  test('is asked to announce the sessions that presence knows to be there, whether it connects before or after', async () => {
    const [before, after] = [randomUUID(), randomUUID()];
    const [userId, deviceId] = [randomUUID(), randomUUID()];
    users.set(userId, deviceId);
    const session = (edgeId: string, number: number) => ({ edgeId, session: number, deviceId });
    presence.located.set(userId, [session(before, 7), session(after, 8), session(randomUUID(), 9)]);
    const there = await connect(before);
    await own([userId]);
    await until(() => there.wanted().length > 0, { what: 'the question' });
    expect(there.wanted()).toEqual([7]);
    const late = await connect(after);
    await until(() => late.wanted().length > 0, { what: 'the question' });
    expect(late.wanted()).toEqual([8]);

    // Its announcement decides, not the sequence of the answers.
    late.say({ openedSessions: [{ session: 8, userId, deviceId, order: 2_000n }] });
    await until(() => late.responses.some(({ attach }) => attach.length > 0), { what: 'the attach' });
    expect(late.responses.flatMap(({ attach }) => attach)).toMatchObject([{ session: 8, order: 2_000n }]);
    there.say({ openedSessions: [{ session: 7, userId, deviceId, order: 1_000n }] });
    await until(() => there.responses.some(({ close }) => close.length > 0), { what: 'the close' });
    expect(there.responses.flatMap(({ close }) => close)).toMatchObject([{ session: 7, code: 4409 }]);
  }, 60_000);

  test('announces a session that another router owns to the one that wants it, with the order it was given', async () => {
    const [owner, next] = [await FakeRouter.start(), await FakeRouter.start()] as const;
    const [presencePort, ...edgePorts] = (await freePorts(3)) as [number, number, number];
    const where = await PresenceService.create({ host, port: presencePort }, deps());
    await where.start();
    const env = new EnvReader({
      ...{ EDGE_HOST: host, EDGE_PORT: String(edgePorts[0]), EDGE_H2_PORT: String(edgePorts[1]) },
      PRESENCE_ADDRESS: `${host}:${presencePort}`,
      CHAT_ADDRESSES: [owner.address, next.address].join(),
    });
    const edge = await EdgeService.create(edgeConfig(env), deps());
    await edge.start();
    await until(() => edge.sessions.routers.reach.connected === 2, { what: 'both routers' });
    const sink = { bufferedBytes: 0, close() {}, caughtUp() {}, ping() {} } as never;
    const identity = { userId: randomUUID(), deviceId: randomUUID(), expiresAtMs: Number.MAX_VALUE };
    const session = edge.sessions.open(identity, sink);
    const opened = ({ requests }: FakeRouter) => requests.flatMap(({ openedSessions }) => openedSessions);
    await until(() => opened(owner).length + opened(next).length > 0, { what: 'the announcement' });
    expect([...opened(owner), ...opened(next)]).toMatchObject([{ session: session.number, order: 0n }]);
    owner.say({ attach: [{ session: session.number, order: 17n }] });
    await until(() => session.owner !== undefined, { what: 'the owner' });
    next.requests.length = 0;
    next.say({ wanted: [session.number] });
    await until(() => opened(next).length > 0, { what: 'the announcement' });
    expect(opened(next)).toMatchObject([{ session: session.number, order: 17n, ageMs: 0 }]);
    next.say({ attach: [{ session: session.number, order: 17n }] });
    const results = () => owner.requests.flatMap(({ attachResults }) => attachResults);
    await until(() => results().some(({ attached }) => !attached), { what: 'the one before to be told' });
    await edge[Symbol.asyncDispose]();
    await where[Symbol.asyncDispose]();
    for (const router of [owner, next]) await router[Symbol.asyncDispose]();
  }, 60_000);
});
