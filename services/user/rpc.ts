import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { AdminService } from '@chatmesh/gen/user/v1/admin';
import type { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import type { UserService } from '@chatmesh/gen/user/v1/user';
import { type CallContext, MeshError, type ServiceImpl } from '@chatmesh/mesh';
import { judge, judgeRegistration, MAX_DEVICES } from './domain/admission.js';
import { consecutiveNumbers } from './domain/contact-number.js';
import type { DeviceState, NewUser, Profile, Registration, UserStore } from './stores/user-store.js';
import { ISSUER, publicJwks, type TokenIssuer } from './token-issuer.js';
import { later, laterStream } from './unimplemented.js';

export interface RpcDeps {
  readonly store: UserStore;
  readonly issuer: TokenIssuer;
  readonly now: () => number;
  /** A new UUID. */
  readonly newId: () => string;
}

const DEFAULT_TOKEN_TTL_SECONDS = 30 * 24 * 3600;

/** What the other services ask. */
export function directoryRpc({ store, issuer, now, newId }: RpcDeps): ServiceImpl<typeof DirectoryService> {
  const admit = async (
    state: DeviceState | undefined,
    device: Pick<Registration, 'userId' | 'deviceId'>,
    external: boolean,
  ) => {
    const verdict = judge(state, external);
    if (verdict !== 'register') return verdict === 'announce';
    const { userId, deviceId } = device;
    const registration = { userId, deviceId, createUser: external, maxDevices: MAX_DEVICES };
    return judgeRegistration(await store.registerDevice(registration, now()), external);
  };
  return {
    async createUsers({ contactNumber, name, count, tokenTtlSeconds }) {
      const numbers = consecutiveNumbers(contactNumber, count || 1);
      const users = numbers.map(
        (number, i): NewUser => ({
          userId: newId(),
          deviceId: newId(),
          contactNumber: number,
          name: numbers.length > 1 ? `${name} ${i + 1}` : name,
        }),
      );
      const nowMs = now();
      await store.createUsers(users, nowMs);
      const ttlSeconds = tokenTtlSeconds || DEFAULT_TOKEN_TTL_SECONDS;
      const tokens = await Promise.all(users.map((user) => issuer.sign(user, nowMs, ttlSeconds)));
      return {
        users: users.map(({ userId, deviceId, contactNumber }, i) => ({
          userId,
          deviceId,
          contactNumber,
          token: tokens[i] ?? '',
        })),
      };
    },

    async admitDevices({ devices }) {
      const states = await store.findDevices(devices);
      const admissions = devices.map((device, i) =>
        admit(states[i], device, device.external).then(
          (registered) => ({ registered }),
          (error) => {
            if (!(error instanceof MeshError)) throw error;
            return { refusal: error.kind, reason: error.message };
          },
        ),
      );
      return { admissions: await Promise.all(admissions) };
    },

    async confirmAnnounced({ devices }) {
      await store.confirmAnnounced(devices, now());
      return {};
    },

    async resolveUsers({ userIds }) {
      const rows = await store.resolveUsers(userIds);
      return {
        users: rows.map((row) => ({
          ...row,
          deviceIds: [...row.deviceIds],
          blockedUserIds: [...row.blockedUserIds],
        })),
      };
    },

    async getSigningKeys() {
      return { jwksJson: publicJwks(await store.signingKeys()), issuer: ISSUER };
    },
  };
}

/** What operators ask. */
export function adminRpc({ store, now }: Pick<RpcDeps, 'store' | 'now'>): ServiceImpl<typeof AdminService> {
  return {
    async setSuspended({ userId, suspended }) {
      if (!(await store.setSuspended(userId, suspended ? now() : undefined)))
        throw new MeshError('not_found', 'no such user');
      return {};
    },
  };
}

/** Profiles. */
export function userRpc({ store }: Pick<RpcDeps, 'store'>): ServiceImpl<typeof UserService> {
  return {
    async getMe(_request, ctx) {
      const profile = await store.findProfile(callerOf(ctx));
      if (!profile) throw new MeshError('not_found', 'the account is deleted');
      const { contactNumber, email, createdAtMs } = profile;
      return { profile: { user: shown(profile), contactNumber, email, createdAt: timestampFromMs(createdAtMs) } };
    },

    async getUser({ userId }, ctx) {
      const caller = callerOf(ctx);
      const [profile, blocked] = await Promise.all([store.findProfile(userId), store.hasBlocked(userId, caller)]);
      if (!profile) throw new MeshError('not_found', 'no such user');
      if (blocked) throw new MeshError('permission_denied', 'the user has blocked you');
      return { user: shown(profile) };
    },

    updateProfile: later,
    lookupContacts: later,
    deleteAccount: later,
    exportData: laterStream,
  };
}

/** The user whom the edge has verified: see AuthService in the contract. */
function callerOf({ metadata }: CallContext): string {
  const userId = metadata['x-chatmesh-user-id'];
  if (!userId) throw new MeshError('unauthenticated', 'the call names no user');
  return userId;
}

/** What others see of a user. */
function shown({ userId, name, pictureUrl }: Profile) {
  return { userId, name, pictureUrl };
}
