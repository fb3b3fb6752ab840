/** What the router knows of a user. */
export interface DirectoryUser {
  readonly userId: string;
  readonly deviceIds: readonly string[];
  readonly blockedUserIds: ReadonlySet<string>;
  readonly readReceipts: boolean;
  readonly suspended: boolean;
}

/** A user whom the directory does not have. */
export type Absent = null;

/** What the directory answers; {@link CachedDirectory} asks through it. */
export interface DirectoryClient {
  /** The users that exist. @throws MeshError `unavailable` or `deadline_exceeded` */
  resolve(userIds: readonly string[]): Promise<DirectoryUser[]>;
}

interface CachedEntry {
  readonly user: DirectoryUser | Absent;
  readonly atMs: number;
}

/** Entries older than this are asked for again, in the background while the old one still serves. */
const REFRESH_MS = 5_000;
/** Entries older than this serve no more: a directory that stays away makes senders see `unavailable`. */
const MAX_AGE_MS = 60_000;
/** An absent user may have signed up a moment ago. */
const ABSENT_MS = 500;
const MAX_ENTRIES = 200_000;
const MAX_PER_REQUEST = 1000;

/**
 * A cache before the directory. Questions of one turn of the event loop become one request.
 */
export class CachedDirectory {
  readonly #client: DirectoryClient;
  readonly #now: () => number;
  readonly #entries = new Map<string, CachedEntry>();
  #wanted = new Map<string, { resolve: (u: DirectoryUser | Absent) => void; reject: (e: unknown) => void }[]>();
  readonly #refreshing = new Set<string>();

  constructor(client: DirectoryClient, now: () => number) {
    this.#client = client;
    this.#now = now;
  }

  /** The user if the cache may answer, else undefined: then {@link find} asks. */
  peek(userId: string): DirectoryUser | Absent | undefined {
    const entry = this.#entries.get(userId);
    if (!entry) return undefined;
    const age = this.#now() - entry.atMs;
    if (age > (entry.user ? MAX_AGE_MS : ABSENT_MS)) return undefined;
    if (age > REFRESH_MS && !this.#refreshing.has(userId)) {
      this.#refreshing.add(userId);
      this.find(userId)
        .catch(() => {})
        .finally(() => this.#refreshing.delete(userId));
    }
    return entry.user;
  }

  /** Asks the directory. @throws MeshError `unavailable` */
  find(userId: string): Promise<DirectoryUser | Absent> {
    return new Promise((resolve, reject) => {
      if (this.#wanted.size === 0) setImmediate(() => this.#ask());
      const waiting = this.#wanted.get(userId);
      if (waiting) waiting.push({ resolve, reject });
      else this.#wanted.set(userId, [{ resolve, reject }]);
    });
  }

  /** A device was registered just now. */
  addDevice(userId: string, deviceId: string): void {
    const entry = this.#entries.get(userId);
    if (!entry?.user || entry.user.deviceIds.includes(deviceId)) return;
    this.#entries.set(userId, { ...entry, user: { ...entry.user, deviceIds: [...entry.user.deviceIds, deviceId] } });
  }

  #ask(): void {
    const wanted = this.#wanted;
    this.#wanted = new Map();
    const ids = [...wanted.keys()];
    for (let at = 0; at < ids.length; at += MAX_PER_REQUEST) {
      const part = ids.slice(at, at + MAX_PER_REQUEST);
      this.#client.resolve(part).then(
        (users) => {
          const found = new Map(users.map((user) => [user.userId, user]));
          for (const id of part) {
            const user = found.get(id) ?? null;
            this.#remember(id, user);
            for (const waiter of wanted.get(id) ?? []) waiter.resolve(user);
          }
        },
        (error) => {
          for (const id of part) for (const waiter of wanted.get(id) ?? []) waiter.reject(error);
        },
      );
    }
  }

  #remember(id: string, user: DirectoryUser | Absent): void {
    this.#entries.delete(id);
    if (this.#entries.size >= MAX_ENTRIES) this.#entries.delete(this.#entries.keys().next().value as string);
    this.#entries.set(id, { user, atMs: this.#now() });
  }
}
