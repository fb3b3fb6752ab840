import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { DirectoryService, type Admission as Verdict } from '@chatmesh/gen/user/v1/directory';
import { Batcher, createClient, type ErrorKind, type Logger, MeshError, type MeshTls } from '@chatmesh/mesh';
import type { RouterPool } from '../routing/router-pool.js';
import type { RouterStream } from '../routing/router-stream.js';
import type { SessionTable } from '../sessions/session-table.js';
import type { TokenVerifier, VerifiedToken } from './token-verifier.js';

/** The directory's limit for one call is higher: a shorter one holds up fewer when it registers new devices. */
const MAX_PER_CALL = 200;
/** Devices that a user may have, by the wire contract; each has one connection. */
const MAX_DEVICES = 10;
/** Nobody waits longer to be counted elsewhere: a connection too many does less harm than none. */
const PRESENCE_DEADLINE_MS = 1_000;

/** Lets a verified user and device in. Those who come while others are being admitted are admitted together. */
export class Admission {
  readonly #verifier: TokenVerifier;
  readonly #directory;
  readonly #routers: () => RouterPool;
  readonly #maxConnectionsPerUser: number;
  readonly #edgeId: string;
  readonly #presence;
  readonly #elsewhere;
  readonly #admissions;
  readonly #announcements;
  readonly #confirmations;

  constructor(options: {
    verifier: TokenVerifier;
    userAddress: string;
    presenceAddress: string;
    edgeId: string;
    routers: () => RouterPool;
    maxConnectionsPerUser: number;
    logger: Logger;
    tls?: MeshTls | undefined;
  }) {
    const { logger, tls } = options;
    this.#verifier = options.verifier;
    this.#maxConnectionsPerUser = options.maxConnectionsPerUser;
    this.#directory = createClient(DirectoryService, { address: options.userAddress, logger, tls });
    this.#presence = createClient(SessionService, { address: options.presenceAddress, logger, tls });
    this.#edgeId = options.edgeId;
    this.#routers = options.routers;
    // The first three are bounded by the connections that may wait for their upgrade and by the unary calls in flight, the
    // last by what the directory has admitted meanwhile.
    this.#admissions = new Batcher((tokens: readonly VerifiedToken[]) => this.#judge(tokens), {
      maxKeys: MAX_PER_CALL,
    });
    this.#elsewhere = new Batcher((userIds: readonly string[]) => this.#askElsewhere(userIds), {
      maxKeys: MAX_PER_CALL,
    });
    this.#announcements = new Batcher((tokens: readonly VerifiedToken[]) => this.#announce(tokens), {
      maxKeys: MAX_PER_CALL,
    });
    this.#confirmations = new Batcher((tokens: readonly VerifiedToken[]) => this.#confirm(tokens), {
      maxKeys: MAX_PER_CALL,
    });
  }

  /**
   * Verifies a token and registers its device where it is new. A new device is in its user's stream before this
   * returns, so that it gets everything that is accepted from then on.
   *
   * @throws MeshError `unauthenticated`, `permission_denied`, `unavailable`
   */
  async admit(token: string): Promise<VerifiedToken> {
    const verified = await this.#verifier.verify(token);
    const { registered, refusal, reason } = await this.#admissions.get(verified);
    if (refusal !== '') throw new MeshError(refusal as ErrorKind, reason);
    if (registered) {
      await this.#announcements.get(verified);
      // Nobody waits for it: a device whose announcement is not noted is announced again, which does no harm.
      this.#confirmations.get(verified).catch(() => {});
    }
    return verified;
  }

  /**
   * Admits a connection, which counts towards the user's limit unless it replaces one of the same device.
   *
   * @throws MeshError as {@link admit}, `unavailable` while draining, `resource_exhausted` for too many connections.
   */
  async admitConnection(token: string, sessions: SessionTable): Promise<VerifiedToken> {
    if (sessions.draining) throw new MeshError('unavailable', 'draining, connect elsewhere');
    return this.admitSession(await this.admit(token), sessions);
  }

  /** {@link admitConnection}, for a token that has been admitted. */
  async admitSession(verified: VerifiedToken, sessions: SessionTable): Promise<VerifiedToken> {
    if (sessions.draining) throw new MeshError('unavailable', 'draining, connect elsewhere');
    const max = this.#maxConnectionsPerUser;
    if (max > 0) {
      const devices = new Set(await this.#devicesElsewhere(verified.userId));
      for (const { deviceId } of sessions.of(verified.userId)) devices.add(deviceId);
      devices.delete(verified.deviceId);
      if (devices.size >= max) throw new MeshError('resource_exhausted', `at most ${max} connections per user`);
    }
    if (sessions.draining) throw new MeshError('unavailable', 'draining, connect elsewhere');
    if (verified.signedBy?.withdrawn) throw new MeshError('unauthenticated', 'the key of the token was withdrawn');
    return verified;
  }

  /** The user's devices that other edges have; none where the number of devices is the lower limit, or presence is away. */
  async #devicesElsewhere(userId: string): Promise<readonly string[]> {
    if (this.#maxConnectionsPerUser >= MAX_DEVICES) return [];
    return this.#elsewhere.get(userId).catch(() => []);
  }

  async #askElsewhere(userIds: readonly string[]): Promise<string[][]> {
    const devices = new Map<string, string[]>(userIds.map((userId) => [userId, []]));
    const request = { userIds: [...devices.keys()] };
    const { sessions } = await this.#presence.listSessions(request, { deadlineMs: PRESENCE_DEADLINE_MS });
    for (const { session, edgeId } of sessions)
      if (session && edgeId !== this.#edgeId) devices.get(session.userId)?.push(session.deviceId);
    return userIds.map((userId) => devices.get(userId) ?? []);
  }

  async #judge(tokens: readonly VerifiedToken[]): Promise<Verdict[]> {
    const devices = tokens.map(({ userId, deviceId, external }) => ({ userId, deviceId, external }));
    const { admissions } = await this.#directory.admitDevices({ devices });
    if (admissions.length !== tokens.length)
      throw new MeshError('internal', 'the directory did not judge every device');
    return admissions;
  }

  /**
   * Puts new devices into their users' streams, through the routers that accept for these users: they know of a device before
   * it is connected, and what it has to have a copy of is accepted there.
   */
  async #announce(tokens: readonly VerifiedToken[]): Promise<undefined[]> {
    const routers = this.#routers();
    const byRouter = new Map<RouterStream | undefined, { userId: string; deviceId: string }[]>();
    for (const { userId, deviceId } of tokens) {
      const router = routers.of(userId);
      byRouter.set(router, [...(byRouter.get(router) ?? []), { userId, deviceId }]);
    }
    const calls = [...byRouter.values()].map((devices) =>
      routers.call(devices[0]?.userId ?? '', (router) => router.announceDevices({ devices })),
    );
    await Promise.all(calls);
    return tokens.map(() => undefined);
  }

  /** Notes that they are there. */
  async #confirm(tokens: readonly VerifiedToken[]): Promise<undefined[]> {
    await this.#directory.confirmAnnounced({ devices: tokens.map(({ userId, deviceId }) => ({ userId, deviceId })) });
    return tokens.map(() => undefined);
  }

  close(): void {
    this.#verifier.close();
    this.#directory.close();
    this.#presence.close();
  }
}
