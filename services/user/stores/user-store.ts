/**
 * Users and what belongs to them. Ids are UUIDs in lower case and times are milliseconds since 1970, both passed in.
 * Every method throws MeshError `unavailable` when the engine cannot be reached or cannot write; what a method has
 * answered is durable.
 */
export interface UserStore extends AsyncDisposable {
  /** False while the engine cannot write. */
  readonly ready: boolean;

  /**
   * Creates users with one device each, all or none.
   *
   * @param users up to 1,000.
   * @throws MeshError `already_exists` naming the first contact number that is taken.
   */
  createUsers(users: readonly NewUser[], atMs: number): Promise<void>;

  /** What admission to the mesh depends on, in the order asked; undefined for an unknown user. One round trip. */
  findDevices(devices: readonly DeviceId[]): Promise<(DeviceState | undefined)[]>;

  /**
   * Registers a device, and the user where it is unknown and `createUser` is set. Of several calls at once for one
   * user each sees what the others have done.
   *
   * @returns the state after it; undefined for an unknown user. A device that was known is left as it is, and one
   * over `maxDevices` that are not revoked is not registered.
   */
  registerDevice(registration: Registration, atMs: number): Promise<DeviceState | undefined>;

  /** Notes that these devices are announced in their users' streams; unknown ones are ignored. */
  confirmAnnounced(devices: readonly DeviceId[], atMs: number): Promise<void>;

  /** Ends a device for good; no error when it is unknown or revoked already. */
  revokeDevice(device: DeviceId, atMs: number): Promise<void>;

  /** What the router needs to know, without unknown and deleted users, in no particular order. */
  resolveUsers(userIds: readonly string[]): Promise<DirectoryRow[]>;

  /** A profile; undefined for an unknown or deleted user. */
  findProfile(userId: string): Promise<Profile | undefined>;

  /** Whether `userId` has blocked `otherId`. */
  hasBlocked(userId: string, otherId: string): Promise<boolean>;

  /** Blocks a user for another; repeating it keeps the first time. Both must exist. */
  block(userId: string, blockedId: string, atMs: number): Promise<void>;

  /** Changes the settings that are given. The user must exist. */
  updateSettings(userId: string, changes: { readonly readReceipts?: boolean }): Promise<void>;

  /**
   * Forbids a user to connect and to send, or allows it again with undefined; repeating it keeps the first time.
   *
   * @returns false for an unknown or deleted user.
   */
  setSuspended(userId: string, sinceMs: number | undefined): Promise<boolean>;

  /** Marks a user as deleted and gives its contact number free. Repeating it changes nothing. */
  deleteUser(userId: string, atMs: number): Promise<void>;

  /**
   * The keys that tokens are signed with, the oldest first. Where there is none, `candidate` becomes the first: of
   * several processes that start at once all get the same.
   */
  signingKeys(candidate?: SigningKey): Promise<SigningKey[]>;
}

export interface NewUser {
  readonly userId: string;
  readonly deviceId: string;
  readonly contactNumber: string;
  readonly name: string;
}

export interface DeviceId {
  readonly userId: string;
  readonly deviceId: string;
}

export interface Registration extends DeviceId {
  readonly createUser: boolean;
  readonly maxDevices: number;
}

/** A user, and how one device stands with it. */
export interface DeviceState {
  readonly suspended: boolean;
  readonly deleted: boolean;
  readonly device: 'unknown' | 'unannounced' | 'announced' | 'revoked';
}

export interface DirectoryRow {
  readonly userId: string;
  /** Those that are not revoked. */
  readonly deviceIds: readonly string[];
  readonly blockedUserIds: readonly string[];
  readonly readReceipts: boolean;
  readonly suspended: boolean;
}

export interface Profile {
  readonly userId: string;
  /** Empty where the user has none. */
  readonly contactNumber: string;
  readonly name: string;
  readonly email: string;
  readonly pictureUrl: string;
  readonly createdAtMs: number;
}

export interface SigningKey {
  readonly id: string;
  /** A JWK with its private part, as JSON. Secret: never logged. */
  readonly privateJwk: string;
  readonly createdAtMs: number;
}
