import { randomUUID } from 'node:crypto';
import type { NewUser, UserStore } from '@chatmesh/user';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const AT_MS = Date.UTC(2026, 2, 1, 9, 30, 0, 123);
const MAX_DEVICES = 3;

/**
 * What every user store promises. `open` opens the same store each time it is called, an empty one at first: each test
 * makes users of its own.
 */
export function userStoreContract(engine: string, open: () => Promise<UserStore>): void {
  describe(`users on ${engine}`, () => {
    let store: UserStore;

    beforeAll(async () => {
      store = await open();
    });

    afterAll(async () => {
      await store[Symbol.asyncDispose]();
    });

    const createUser = async (): Promise<NewUser> => {
      const user = newUser();
      await store.createUsers([user], AT_MS);
      return user;
    };
    const find = async (userId: string, deviceId: string) => (await store.findDevices([{ userId, deviceId }]))[0];
    const register = (userId: string, deviceId: string, createUser = false) =>
      store.registerDevice({ userId, deviceId, createUser, maxDevices: MAX_DEVICES }, AT_MS);
    const resolve = async (userId: string) => (await store.resolveUsers([userId]))[0];
    const active = { suspended: false, deleted: false };

    test('what one opening has answered, the next one finds', async () => {
      const user = await createUser();
      await store[Symbol.asyncDispose]();
      store = await open();
      expect(await store.findProfile(user.userId)).toMatchObject({ contactNumber: user.contactNumber });
    });

    test('it is ready once it is open', () => {
      expect(store.ready).toBe(true);
    });

    describe('creating users', () => {
      test('each is found with its profile and its one device', async () => {
        const user = await createUser();
        expect(await store.findProfile(user.userId)).toEqual({
          userId: user.userId,
          contactNumber: user.contactNumber,
          name: user.name,
          email: '',
          pictureUrl: '',
          createdAtMs: AT_MS,
        });
        expect(await resolve(user.userId)).toEqual({
          userId: user.userId,
          deviceIds: [user.deviceId],
          blockedUserIds: [],
          readReceipts: true,
          suspended: false,
        });
      });

      test('a thousand are created at once', async () => {
        const users = Array.from({ length: 1_000 }, newUser);
        await store.createUsers(users, AT_MS);
        expect(await store.resolveUsers(users.map(({ userId }) => userId))).toHaveLength(1_000);
      });

      test('a number that is taken is named, and nobody is created', async () => {
        const taken = await createUser();
        const [free, clash] = [newUser(), { ...newUser(), contactNumber: taken.contactNumber }];
        await expect(store.createUsers([free, clash], AT_MS)).rejects.toMatchObject({
          kind: 'already_exists',
          message: expect.stringContaining(taken.contactNumber),
        });
        expect(await store.findProfile(free.userId)).toBeUndefined();
        await store.createUsers([free], AT_MS);
      });

      test('a number that occurs twice in one call is taken', async () => {
        const user = newUser();
        await expect(
          store.createUsers([user, { ...newUser(), contactNumber: user.contactNumber }], AT_MS),
        ).rejects.toMatchObject({ kind: 'already_exists', message: expect.stringContaining(user.contactNumber) });
      });

      test('of two at once with the same number one is created', async () => {
        const [one, other] = [newUser(), newUser()];
        const results = await Promise.allSettled([
          store.createUsers([one], AT_MS),
          store.createUsers([{ ...other, contactNumber: one.contactNumber }], AT_MS),
        ]);
        expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
      });
    });

    describe('devices', () => {
      test('are answered in the order asked, also twice, with nothing for unknown users', async () => {
        const [ada, bob] = [await createUser(), await createUser()];
        await store.confirmAnnounced([bob], AT_MS);
        expect(
          await store.findDevices([
            bob,
            { userId: randomUUID(), deviceId: ada.deviceId },
            ada,
            { userId: ada.userId, deviceId: bob.deviceId },
            bob,
          ]),
        ).toEqual([
          { ...active, device: 'announced' },
          undefined,
          { ...active, device: 'unannounced' },
          { ...active, device: 'unknown' },
          { ...active, device: 'announced' },
        ]);
      });

      test('a new one is registered, and unannounced until that is confirmed', async () => {
        const { userId } = await createUser();
        const deviceId = randomUUID();
        expect(await find(userId, deviceId)).toEqual({ ...active, device: 'unknown' });
        expect(await register(userId, deviceId)).toEqual({ ...active, device: 'unannounced' });
        expect(await register(userId, deviceId)).toEqual({ ...active, device: 'unannounced' });
        await store.confirmAnnounced([{ userId, deviceId }], AT_MS);
        expect(await register(userId, deviceId)).toEqual({ ...active, device: 'announced' });
        expect(await find(userId, deviceId)).toEqual({ ...active, device: 'announced' });
      });

      test('confirming an announcement is repeatable, and ignores devices that are unknown', async () => {
        const user = await createUser();
        const strangers = { userId: randomUUID(), deviceId: randomUUID() };
        await store.confirmAnnounced([user, strangers], AT_MS);
        await store.confirmAnnounced([user], AT_MS + 1);
        await store.confirmAnnounced([], AT_MS);
        expect(await find(user.userId, user.deviceId)).toEqual({ ...active, device: 'announced' });
      });

      test('of users unknown there are none, unless the user may be created with the device', async () => {
        const [userId, deviceId] = [randomUUID(), randomUUID()];
        expect(await register(userId, deviceId)).toBeUndefined();
        expect(await register(userId, deviceId, true)).toEqual({ ...active, device: 'unannounced' });
        expect(await store.findProfile(userId)).toMatchObject({ contactNumber: '', name: '' });
      });

      test('the same device id may belong to several users', async () => {
        const nil = '00000000-0000-0000-0000-000000000000';
        const [ada, bob] = [randomUUID(), randomUUID()];
        await register(ada, nil, true);
        await register(bob, nil, true);
        expect((await resolve(ada))?.deviceIds).toEqual([nil]);
        expect((await resolve(bob))?.deviceIds).toEqual([nil]);
      });

      test('one over the limit stays unknown, however many come at once, and a revoked one makes room', async () => {
        const user = await createUser();
        const ids = Array.from({ length: MAX_DEVICES + 2 }, () => randomUUID());
        await Promise.all(ids.map((id) => register(user.userId, id)));
        const found = await store.findDevices(ids.map((deviceId) => ({ userId: user.userId, deviceId })));
        const unknown = ids.filter((_, i) => found[i]?.device === 'unknown');
        expect((await resolve(user.userId))?.deviceIds).toHaveLength(MAX_DEVICES);
        expect(unknown).toHaveLength(3);
        await store.revokeDevice(user, AT_MS);
        expect(await register(user.userId, unknown[0] as string)).toEqual({ ...active, device: 'unannounced' });
      });

      test('a revoked one is revoked for good and no longer counts as registered', async () => {
        const user = await createUser();
        await store.revokeDevice(user, AT_MS);
        await store.revokeDevice(user, AT_MS + 1);
        expect(await register(user.userId, user.deviceId)).toEqual({ ...active, device: 'revoked' });
        expect((await resolve(user.userId))?.deviceIds).toEqual([]);
      });
    });

    describe('resolving users', () => {
      test('leaves out who is unknown or deleted', async () => {
        const [ada, bob] = [await createUser(), await createUser()];
        await store.deleteUser(bob.userId, AT_MS);
        const found = await store.resolveUsers([ada.userId, bob.userId, randomUUID()]);
        expect(found.map(({ userId }) => userId)).toEqual([ada.userId]);
        expect(await store.resolveUsers([])).toEqual([]);
      });

      test('tells who is blocked by the user, and not by whom the user is', async () => {
        const [ada, bob] = [await createUser(), await createUser()];
        await store.block(ada.userId, bob.userId, AT_MS);
        await store.block(ada.userId, bob.userId, AT_MS + 1);
        expect((await resolve(ada.userId))?.blockedUserIds).toEqual([bob.userId]);
        expect((await resolve(bob.userId))?.blockedUserIds).toEqual([]);
        expect(await store.hasBlocked(ada.userId, bob.userId)).toBe(true);
        expect(await store.hasBlocked(bob.userId, ada.userId)).toBe(false);
      });

      test('tells whether read receipts are on', async () => {
        const { userId } = await createUser();
        await store.updateSettings(userId, { readReceipts: false });
        expect((await resolve(userId))?.readReceipts).toBe(false);
        await store.updateSettings(userId, {});
        expect((await resolve(userId))?.readReceipts).toBe(false);
        await store.updateSettings(userId, { readReceipts: true });
        expect((await resolve(userId))?.readReceipts).toBe(true);
      });

      test('tells who is suspended', async () => {
        const user = await createUser();
        expect(await store.setSuspended(user.userId, AT_MS)).toBe(true);
        expect((await resolve(user.userId))?.suspended).toBe(true);
        expect(await find(user.userId, user.deviceId)).toMatchObject({ suspended: true });
        expect(await register(user.userId, randomUUID())).toEqual({
          suspended: true,
          deleted: false,
          device: 'unknown',
        });
        expect(await store.setSuspended(user.userId, undefined)).toBe(true);
        expect(await store.setSuspended(randomUUID(), AT_MS)).toBe(false);
        expect((await resolve(user.userId))?.suspended).toBe(false);
      });
    });

    test('a deleted user stays known as deleted, and its number is free again', async () => {
      const user = await createUser();
      await store.deleteUser(user.userId, AT_MS);
      await store.deleteUser(user.userId, AT_MS + 1);
      expect(await store.findProfile(user.userId)).toBeUndefined();
      expect(await find(user.userId, user.deviceId)).toMatchObject({ deleted: true });
      expect(await register(user.userId, randomUUID(), true)).toMatchObject({ deleted: true, device: 'unknown' });
      await store.createUsers([{ ...newUser(), contactNumber: user.contactNumber }], AT_MS);
    });

    test('the first signing key stays, and of several offered at once all see the same', async () => {
      const offered = Array.from({ length: 3 }, (_, i) => ({
        id: randomUUID(),
        privateJwk: `{"n":${i}}`,
        createdAtMs: AT_MS + i,
      }));
      expect(await store.signingKeys()).toEqual([]);
      const seen = await Promise.all(offered.map((key) => store.signingKeys(key)));
      for (const keys of seen) expect(keys).toEqual(seen[0]);
      expect(seen[0]).toHaveLength(1);
      expect(offered).toContainEqual(seen[0]?.[0]);
      expect(await store.signingKeys()).toEqual(seen[0]);
    });
  });
}

let number = 15_550_000_000;

function newUser(): NewUser {
  return { userId: randomUUID(), deviceId: randomUUID(), contactNumber: `+${number++}`, name: 'Ada Lovelace 🧮' };
}
