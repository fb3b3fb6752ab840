import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { Batcher, type ClientOptions, createClient } from '@chatmesh/mesh';
import type { DirectoryClient, DirectoryUser } from './directory.js';
import type { LocatedSession, SessionFinder } from './owner.js';

/** Most users block nobody: they share one set. */
const NOBODY: ReadonlySet<string> = new Set();
const MAX_PER_REQUEST = 1000;
/** Presence only speeds up what edges do anyway: nobody waits for it long. */
const PRESENCE_DEADLINE_MS = 1_000;

/** The directory over gRPC. */
export class GrpcDirectory implements DirectoryClient {
  readonly #client;

  constructor(options: ClientOptions) {
    this.#client = createClient(DirectoryService, options);
  }

  async resolve(userIds: readonly string[]): Promise<DirectoryUser[]> {
    const { users } = await this.#client.resolveUsers({ userIds: [...userIds] });
    return users.map((user) => ({
      userId: user.userId,
      deviceIds: user.deviceIds,
      blockedUserIds: user.blockedUserIds.length > 0 ? new Set(user.blockedUserIds) : NOBODY,
      readReceipts: user.readReceipts,
      suspended: user.suspended,
    }));
  }

  close(): void {
    this.#client.close();
  }
}

/** Presence over gRPC; questions that come together become one request. */
export class GrpcSessions implements SessionFinder {
  readonly #client;
  readonly #questions = new Batcher((userIds: readonly string[]) => this.#ask(userIds), { maxKeys: MAX_PER_REQUEST });

  constructor(options: ClientOptions) {
    this.#client = createClient(SessionService, options);
  }

  sessions(userId: string): Promise<LocatedSession[]> {
    return this.#questions.get(userId);
  }

  close(): void {
    this.#client.close();
  }

  /** The sessions of each user, in the order asked; a user may be asked for twice. */
  async #ask(userIds: readonly string[]): Promise<LocatedSession[][]> {
    const found = new Map<string, LocatedSession[]>(userIds.map((id) => [id, []]));
    const request = { userIds: [...found.keys()] };
    const { sessions } = await this.#client.listSessions(request, { deadlineMs: PRESENCE_DEADLINE_MS });
    for (const { session, edgeId } of sessions) {
      if (session) found.get(session.userId)?.push({ edgeId, session: session.session, deviceId: session.deviceId });
    }
    return userIds.map((id) => found.get(id) ?? []);
  }
}
