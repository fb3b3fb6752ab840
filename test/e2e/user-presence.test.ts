import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DescService } from '@bufbuild/protobuf';
import { PresenceService as PublicPresence } from '@chatmesh/gen/presence/v1/presence';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { AuthService } from '@chatmesh/gen/user/v1/auth';
import { ContactService } from '@chatmesh/gen/user/v1/contact';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { GroupService } from '@chatmesh/gen/user/v1/group';
import { KeyService } from '@chatmesh/gen/user/v1/key';
import { LastSeenVisibility, SettingsService } from '@chatmesh/gen/user/v1/settings';
import { UserService as Profiles } from '@chatmesh/gen/user/v1/user';
import {
  type Client,
  type ClientControl,
  createClient,
  createLogger,
  type ErrorKind,
  MeshError,
  Metrics,
  type MonotonicClock,
} from '@chatmesh/mesh';
import { MemoryPresenceStore, PresenceService } from '@chatmesh/presence';
import { PgliteEngine, SqlUserStore, UserService, type UserStore } from '@chatmesh/user';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createLocalJWKSet, decodeProtectedHeader, jwtVerify } from 'jose';

const logger = createLogger({ name: 'test', level: 'silent' });
const host = '127.0.0.1';
const closing: (() => unknown)[] = [];

afterAll(async () => {
  for (const close of closing.reverse()) await close();
});

function clientOf<S extends DescService>(service: S, port: number): Client<S> & ClientControl {
  const client = createClient(service, { address: `${host}:${port}`, logger });
  closing.push(() => client.close());
  return client;
}

async function readAll<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of stream) all.push(item);
  return all;
}

describe('the user service', () => {
  let nowMs = Date.now();
  let store: UserStore;
  let service: UserService;
  let directory: Client<typeof DirectoryService>;
  let number = 15_550_000_000;

  beforeAll(async () => {
    const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-user-'));
    closing.push(() => rmSync(dataDir, { recursive: true, force: true }));
    store = await SqlUserStore.open(await PgliteEngine.open(join(dataDir, 'database'), logger));
    const deps = { logger, metrics: new Metrics({ processMetrics: false }) };
    service = await UserService.create({ host, port: 0, dataDir }, deps, { store, now: () => nowMs });
    closing.push(() => service[Symbol.asyncDispose]());
    await service.start();
    directory = clientOf(DirectoryService, service.port);
  });

  const create = async (count = 1, tokenTtlSeconds = 0) => {
    const contactNumber = `+${number}`;
    number += count;
    return (await directory.createUsers({ contactNumber, name: 'Ada', count, tokenTtlSeconds })).users;
  };
  const createOne = async () => (await create())[0] as Awaited<ReturnType<typeof create>>[number];

  describe('creating users', () => {
    test('counts numbers up and names apart, in order', async () => {
      const first = number;
      const users = await create(3);
      expect(users.map(({ contactNumber }) => contactNumber)).toEqual(
        [first, first + 1, first + 2].map((n) => `+${n}`),
      );
      const profiles = await Promise.all(users.map(({ userId }) => store.findProfile(userId)));
      expect(profiles.map((profile) => profile?.name)).toEqual(['Ada 1', 'Ada 2', 'Ada 3']);
    });

    test('gives each a token that the published keys verify', async () => {
      const { userId, deviceId, token } = await createOne();
      const { jwksJson, issuer } = await directory.getSigningKeys({});
      expect(jwksJson).not.toContain('"d"');
      const currentDate = new Date(nowMs);
      const { payload } = await jwtVerify(token, createLocalJWKSet(JSON.parse(jwksJson)), { issuer, currentDate });
      const iat = Math.floor(nowMs / 1000);
      expect(payload).toEqual({ sub: userId, did: deviceId, iss: 'chatmesh', iat, exp: iat + 30 * 24 * 3600 });
      expect(decodeProtectedHeader(token)).toMatchObject({ alg: 'EdDSA' });
    });

    test('lets tokens live as long as asked', async () => {
      const [user] = await create(1, 60);
      const claims = JSON.parse(Buffer.from(user?.token.split('.')[1] ?? '', 'base64url').toString());
      expect(claims.exp - claims.iat).toBe(60);
    });

    test('refuses a number that is taken, by that number, and creates nobody', async () => {
      const taken = await createOne();
      const refused = directory.createUsers({ contactNumber: taken.contactNumber, name: 'Bob', count: 2 });
      await expect(refused).rejects.toMatchObject({
        kind: 'already_exists',
        message: expect.stringContaining(taken.contactNumber),
      });
    });

    test.each([
      ['no number', { contactNumber: '15550100', name: 'Ada' }],
      ['a number that counts over its end', { contactNumber: '+999999999999999', name: 'Ada', count: 2 }],
      ['no name', { contactNumber: '+15550100', name: '' }],
      ['too many', { contactNumber: '+15550100', name: 'Ada', count: 1_001 }],
    ])('refuses %s as invalid', async (_what, request) => {
      await expect(directory.createUsers(request)).rejects.toMatchObject({ kind: 'invalid_argument' });
    });
  });

  /** Admits one device. @throws MeshError as refused. */
  const admit = async (device: { userId: string; deviceId: string; external?: boolean }) => {
    const [admission] = (await directory.admitDevices({ devices: [device] })).admissions;
    if (admission?.refusal) throw new MeshError(admission.refusal as ErrorKind, admission.reason);
    return admission;
  };

  describe('admitting devices', () => {
    test('refuses those of many that may not connect, and admits the others, in the order asked', async () => {
      const users = await create(3);
      await store.setSuspended(users[1]?.userId ?? '', nowMs);
      const stranger = { userId: randomUUID(), deviceId: randomUUID() };
      const { admissions } = await directory.admitDevices({
        devices: [...users.map(({ userId, deviceId }) => ({ userId, deviceId })), stranger],
      });
      expect(admissions.map(({ registered, refusal }) => refusal || registered)).toEqual([
        true,
        'permission_denied',
        true,
        'unauthenticated',
      ]);
    });

    test('reports a new device until its announcement is confirmed', async () => {
      const { userId, deviceId } = await createOne();
      for (let i = 0; i < 2; i++) expect(await admit({ userId, deviceId })).toMatchObject({ registered: true });
      await directory.confirmAnnounced({ devices: [{ userId, deviceId }] });
      expect(await admit({ userId, deviceId })).toMatchObject({ registered: false });
    });

    test('registers up to ten devices of a user, also when they come at once, and refuses the eleventh', async () => {
      const { userId } = await createOne();
      const results = await Promise.allSettled(
        Array.from({ length: 10 }, () => admit({ userId, deviceId: randomUUID() })),
      );
      const refused = results.filter((result) => result.status === 'rejected');
      expect(refused.map(({ reason }) => reason.kind)).toEqual(['permission_denied']);
      const { users } = await directory.resolveUsers({ userIds: [userId] });
      expect(users[0]?.deviceIds).toHaveLength(10);
    });

    test('refuses a user who is unknown, unless another issuer vouches for it', async () => {
      const [userId, deviceId] = [randomUUID(), '00000000-0000-0000-0000-000000000000'];
      const own = admit({ userId, deviceId });
      await expect(own).rejects.toMatchObject({ kind: 'unauthenticated' });
      expect(await admit({ userId, deviceId, external: true })).toMatchObject({ registered: true });
      await directory.confirmAnnounced({ devices: [{ userId, deviceId }] });
      expect(await admit({ userId, deviceId, external: true })).toMatchObject({ registered: false });
    });

    test('refuses a revoked device, whoever vouches for it', async () => {
      const user = await createOne();
      await store.revokeDevice(user, nowMs);
      for (const external of [false, true]) {
        const admitted = admit({ userId: user.userId, deviceId: user.deviceId, external });
        await expect(admitted).rejects.toMatchObject({ kind: 'permission_denied' });
      }
      expect(await admit({ userId: user.userId, deviceId: randomUUID() })).toMatchObject({
        registered: true,
      });
    });

    test('refuses known and new devices of suspended and of deleted users', async () => {
      const [suspended, deleted] = [await createOne(), await createOne()];
      await store.setSuspended(suspended.userId, nowMs);
      await store.deleteUser(deleted.userId, nowMs);
      for (const { userId, deviceId } of [suspended, deleted]) {
        for (const id of [deviceId, randomUUID()]) {
          const admitted = admit({ userId, deviceId: id, external: true });
          await expect(admitted).rejects.toMatchObject({ kind: 'permission_denied' });
        }
      }
    });
  });

  test('resolving tells devices, blocks, receipts and suspension, of active users only', async () => {
    const [ada, bob, eve] = [await createOne(), await createOne(), await createOne()];
    await store.block(ada.userId, bob.userId, nowMs);
    await store.updateSettings(ada.userId, { readReceipts: false });
    await store.setSuspended(bob.userId, nowMs);
    await store.deleteUser(eve.userId, nowMs);
    const userIds = [ada.userId, bob.userId, eve.userId, randomUUID()];
    const { users } = await directory.resolveUsers({ userIds });
    expect(users).toHaveLength(2);
    expect(users.find(({ userId }) => userId === ada.userId)).toMatchObject({
      deviceIds: [ada.deviceId],
      blockedUserIds: [bob.userId],
      readReceipts: false,
      suspended: false,
    });
    expect(users.find(({ userId }) => userId === bob.userId)).toMatchObject({ readReceipts: true, suspended: true });
  });

  describe('profiles', () => {
    const as = (userId: string) => ({ metadata: { 'x-chatmesh-user-id': userId } });

    test('one sees all of the own profile, and the public part of that of others', async () => {
      nowMs += 1_000;
      const [ada, bob] = [await createOne(), await createOne()];
      const profiles = clientOf(Profiles, service.port);
      const { profile } = await profiles.getMe({}, as(ada.userId));
      expect(profile).toMatchObject({
        user: { userId: ada.userId, name: 'Ada', pictureUrl: '' },
        contactNumber: ada.contactNumber,
        email: '',
        createdAt: { seconds: BigInt(Math.floor(nowMs / 1000)) },
      });
      const { user } = await profiles.getUser({ userId: bob.userId }, as(ada.userId));
      expect(user).toMatchObject({ userId: bob.userId, name: 'Ada' });
    });

    test('nobody is found who is unknown or deleted, and no one who has blocked the caller', async () => {
      const [ada, bob, eve] = [await createOne(), await createOne(), await createOne()];
      await store.deleteUser(bob.userId, nowMs);
      await store.block(eve.userId, ada.userId, nowMs);
      const profiles = clientOf(Profiles, service.port);
      const get = (userId: string) => profiles.getUser({ userId }, as(ada.userId));
      await expect(get(randomUUID())).rejects.toMatchObject({ kind: 'not_found' });
      await expect(get(bob.userId)).rejects.toMatchObject({ kind: 'not_found' });
      await expect(get(eve.userId)).rejects.toMatchObject({ kind: 'permission_denied' });
    });

    test('without a caller nothing is told', async () => {
      const { userId } = await createOne();
      const profiles = clientOf(Profiles, service.port);
      await expect(profiles.getMe({})).rejects.toMatchObject({ kind: 'unauthenticated' });
      await expect(profiles.getUser({ userId })).rejects.toMatchObject({ kind: 'unauthenticated' });
    });
  });

  test('what is in the contract and not served yet says so, unary or stream', async () => {
    const id = randomUUID();
    const key = { keyId: '1', publicKey: new Uint8Array(32), signature: new Uint8Array(64), createdAt: {} };
    const { port } = service;
    const profiles = clientOf(Profiles, port);
    const calls: Promise<unknown>[] = [
      clientOf(AuthService, port).startVerification({ contactNumber: '+15550100' }),
      clientOf(ContactService, port).block({ userId: id }),
      clientOf(SettingsService, port).updateSettings({ lastSeen: LastSeenVisibility.NOBODY }),
      clientOf(GroupService, port).createGroup({ groupId: id, name: 'Engines' }),
      clientOf(KeyService, port).rotateKey({ sealingKey: key }),
      profiles.updateProfile({ email: '', picture: { case: 'pictureUrl', value: '' } }),
      readAll(profiles.exportData({})),
    ];
    for (const call of calls) await expect(call).rejects.toMatchObject({ kind: 'unimplemented' });
  });

  test('the rules of the contract hold for the public services too', async () => {
    const { port } = service;
    const profiles = clientOf(Profiles, port);
    const refused: Promise<unknown>[] = [
      clientOf(AuthService, port).completeVerification({ verificationId: randomUUID(), code: '12345' }),
      profiles.updateProfile({ email: 'nobody' }),
      profiles.updateProfile({ picture: { case: 'pictureUrl', value: 'javascript:alert(1)' } }),
      profiles.updateProfile({ name: '' }),
      clientOf(SettingsService, port).updateSettings({ lastSeen: LastSeenVisibility.UNSPECIFIED }),
      clientOf(KeyService, port).publishKey({ identityKey: new Uint8Array(31) }),
    ];
    for (const call of refused) await expect(call).rejects.toMatchObject({ kind: 'invalid_argument' });
  });
});

describe('the presence service', () => {
  const leaseMs = 15_000;
  let passedMs = 0;
  let service: PresenceService;
  let sessions: Client<typeof SessionService>;

  beforeAll(async () => {
    const deps = { logger, metrics: new Metrics({ processMetrics: false }) };
    const store = new MemoryPresenceStore({ now: Date.now, monotonicMs: (() => passedMs) as MonotonicClock });
    service = await PresenceService.create({ host, port: 0 }, deps, { store });
    closing.push(() => service[Symbol.asyncDispose]());
    await service.start();
    sessions = clientOf(SessionService, service.port);
  });

  test('sessions are found where they were reported, until their edge falls silent', async () => {
    const edgeId = randomUUID();
    const session = { userId: randomUUID(), deviceId: randomUUID(), session: 7 };
    expect(await sessions.report({ edgeId, leaseMs, opened: [session] })).toMatchObject({ unknownEdge: true });
    expect(await sessions.report({ edgeId, leaseMs, full: true, opened: [session] })).toMatchObject({
      unknownEdge: false,
    });
    const userIds = [session.userId.toUpperCase(), randomUUID()];
    expect((await sessions.listSessions({ userIds })).sessions).toMatchObject([{ session, edgeId }]);
    passedMs += leaseMs;
    expect((await sessions.listSessions({ userIds })).sessions).toEqual([]);
    expect(await sessions.report({ edgeId, leaseMs })).toMatchObject({ unknownEdge: true });
  });

  test('a report with an id that is no UUID is refused as a whole', async () => {
    const edgeId = randomUUID();
    const good = { userId: randomUUID(), deviceId: randomUUID(), session: 1 };
    const bad = { userId: 'ada', deviceId: randomUUID(), session: 2 };
    const report = sessions.report({ edgeId, leaseMs, full: true, opened: [good, bad] });
    await expect(report).rejects.toMatchObject({ kind: 'invalid_argument' });
    expect((await sessions.listSessions({ userIds: [good.userId] })).sessions).toEqual([]);
    expect(await sessions.report({ edgeId, leaseMs })).toMatchObject({ unknownEdge: true });
  });

  test('what is in the contract and not served yet says so, unary or stream', async () => {
    const presence = clientOf(PublicPresence, service.port);
    const userIds = [randomUUID()];
    await expect(presence.get({ userIds })).rejects.toMatchObject({ kind: 'unimplemented' });
    await expect(readAll(presence.watch({ userIds }))).rejects.toMatchObject({ kind: 'unimplemented' });
  });
});
