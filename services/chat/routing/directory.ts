import { Batcher, type MonotonicClock } from '@chatmesh/mesh';

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
  /** When it came, by the monotonic clock. */
  readonly atMs: number;
}

/** A request that is under way. */
interface Request {
  readonly users: ReadonlyMap<string, DirectoryUser | Absent>;
  /** Devices that were registered since it left, by user: its answer may lack them. */
  readonly devices: Map<string, string[]>;
  /** Users who were forgotten since it left: its answer may be older than the reason for that. */
  readonly forgotten: Set<string>;
}

/** Entries older than this are asked for again, in the background while the old one still serves. */
const REFRESH_MS = 5_000;
/** Entries older than this serve no more: a directory that stays away makes senders see `unavailable`. */
const MAX_AGE_MS = 60_000;
/** An absent user may have signed up a moment ago. */
const ABSENT_MS = 500;
const REFRESH_ROUND_MS = 500;
const MAX_ENTRIES = 200_000;
const MAX_PER_REQUEST = 1000;

/** A cache before the directory. Questions that come together become one request. */
export class CachedDirectory {
  readonly #client: DirectoryClient;
  readonly #monotonicMs: MonotonicClock;
  readonly #maxAgeMs: number;
  readonly #entries = new Map<string, CachedEntry>();
  readonly #questions = new Batcher((ids: readonly string[]) => this.#ask(ids), { maxKeys: MAX_PER_REQUEST });
  #underWay: Request | undefined;
  /** Users whose entries are being asked for again, and those among them that wait for the next round. */
  readonly #refreshing = new Set<string>();
  #due: string[] = [];

  /** @param maxAgeMs how long an entry serves that the directory does not answer for again. */
  constructor(client: DirectoryClient, monotonicMs: MonotonicClock, maxAgeMs = MAX_AGE_MS) {
    this.#client = client;
    this.#monotonicMs = monotonicMs;
    this.#maxAgeMs = maxAgeMs;
  }

  /** The user if the cache may answer, else undefined: then {@link find} asks. */
  peek(userId: string): DirectoryUser | Absent | undefined {
    const entry = this.#entries.get(userId);
    if (!entry) return undefined;
    const age = this.#monotonicMs() - entry.atMs;
    if (age > (entry.user ? this.#maxAgeMs : ABSENT_MS)) return undefined;
    if (age > REFRESH_MS) this.#refresh(userId);
    return entry.user;
  }

  /** Asks the directory. @throws MeshError `unavailable` */
  find(userId: string): Promise<DirectoryUser | Absent> {
    return this.#questions.get(userId);
  }

  /** A device is registered, perhaps just now: the directory has it. */
  addDevice(userId: string, deviceId: string): void {
    if (this.#underWay?.users.has(userId)) {
      const { devices } = this.#underWay;
      devices.set(userId, [...(devices.get(userId) ?? []), deviceId]);
    }
    const entry = this.#entries.get(userId);
    if (!entry) return;
    // Whoever has a device is there.
    if (!entry.user) this.#entries.delete(userId);
    else if (!entry.user.deviceIds.includes(deviceId))
      this.#entries.set(userId, { ...entry, user: withDevices(entry.user, [deviceId]) });
  }

  /** What is known of a user may be out of date: the next question goes to the directory. */
  forget(userId: string): void {
    this.#underWay?.forgotten.add(userId);
    this.#entries.delete(userId);
  }

  /** Nobody waits for it, so those of a while share a request. */
  #refresh(userId: string): void {
    if (this.#refreshing.has(userId)) return;
    this.#refreshing.add(userId);
    this.#due.push(userId);
    if (this.#due.length > 1) return;
    setTimeout(() => {
      const due = this.#due;
      this.#due = [];
      for (const id of due) {
        this.find(id)
          .catch(() => {})
          .finally(() => this.#refreshing.delete(id));
      }
    }, REFRESH_ROUND_MS).unref();
  }

  /** One at a time: an answer does not overtake an older one. */
  async #ask(userIds: readonly string[]): Promise<(DirectoryUser | Absent)[]> {
    const found = new Map<string, DirectoryUser | Absent>(userIds.map((id) => [id, null]));
    const devices = new Map<string, string[]>();
    const forgotten = new Set<string>();
    this.#underWay = { users: found, devices, forgotten };
    try {
      for (const user of await this.#client.resolve([...found.keys()]))
        found.set(user.userId, withDevices(user, devices.get(user.userId) ?? []));
    } finally {
      this.#underWay = undefined;
    }
    // That somebody is not there is out of date when a device of theirs has come meanwhile.
    for (const [id, user] of found) if (!forgotten.has(id) && (user || !devices.has(id))) this.#remember(id, user);
    return userIds.map((id) => found.get(id) ?? null);
  }

  #remember(id: string, user: DirectoryUser | Absent): void {
    this.#entries.delete(id);
    if (this.#entries.size >= MAX_ENTRIES) this.#entries.delete(this.#entries.keys().next().value as string);
    this.#entries.set(id, { user, atMs: this.#monotonicMs() });
  }
}

function withDevices(user: DirectoryUser, deviceIds: readonly string[]): DirectoryUser {
  const missing = deviceIds.filter((id) => !user.deviceIds.includes(id));
  return missing.length === 0 ? user : { ...user, deviceIds: [...new Set([...user.deviceIds, ...missing])] };
}
