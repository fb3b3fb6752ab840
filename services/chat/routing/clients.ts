import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, type Logger } from '@chatmesh/mesh';
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

  constructor(options: { address: string; logger: Logger }) {
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

/** Presence over gRPC; questions of one turn of the event loop become one request. */
export class GrpcSessions implements SessionFinder {
  readonly #client;
  #wanted = new Map<string, { resolve: (s: LocatedSession[]) => void; reject: (e: unknown) => void }>();

  constructor(options: { address: string; logger: Logger }) {
    this.#client = createClient(SessionService, options);
  }

  sessions(userId: string): Promise<LocatedSession[]> {
    return new Promise((resolve, reject) => {
      if (this.#wanted.size === 0) setImmediate(() => this.#ask());
      this.#wanted.set(userId, { resolve, reject });
    });
  }

  close(): void {
    this.#client.close();
  }

  #ask(): void {
    const wanted = this.#wanted;
    this.#wanted = new Map();
    const ids = [...wanted.keys()];
    for (let at = 0; at < ids.length; at += MAX_PER_REQUEST) {
      const part = ids.slice(at, at + MAX_PER_REQUEST);
      this.#client.listSessions({ userIds: part }, { deadlineMs: PRESENCE_DEADLINE_MS }).then(
        ({ sessions }) => {
          const found = new Map<string, LocatedSession[]>(part.map((id) => [id, []]));
          for (const { session, edgeId } of sessions) {
            if (session)
              found.get(session.userId)?.push({ edgeId, session: session.session, deviceId: session.deviceId });
          }
          for (const [id, located] of found) wanted.get(id)?.resolve(located);
        },
        (error) => {
          for (const id of part) wanted.get(id)?.reject(error);
        },
      );
    }
  }
}
