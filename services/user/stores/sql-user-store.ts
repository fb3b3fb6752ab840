import { MeshError } from '@chatmesh/mesh';
import { type Kysely, sql, type Transaction } from 'kysely';
import { checkSchema, migrateSchema } from '../migrations/migrate.js';
import type { Schema } from './schema.js';
import type {
  DeviceId,
  DeviceState,
  DirectoryRow,
  NewUser,
  Profile,
  Registration,
  SigningKey,
  UserStore,
} from './user-store.js';

/** Any number that no other user of advisory locks in this database takes: here, whoever makes the first key. */
const FIRST_KEY_LOCK = 7_002_001;

/** Statements on a database: on the whole of it, or within a transaction. */
export type Queries = Kysely<Schema> | Transaction<Schema>;

/** An engine that speaks PostgreSQL, opened. */
export interface SqlEngine extends AsyncDisposable {
  readonly db: Kysely<Schema>;
  /** False while it cannot write. */
  readonly ready: boolean;
  /** True where others use the database, too: its schema is theirs as well, and is not changed in passing. */
  readonly shared: boolean;
  /** Reads, from a replica where there is one; it sees everything that was answered before. */
  lookUp<T>(ask: (queries: Queries) => Promise<T>): Promise<T>;
}

/** Users in plain PostgreSQL, whichever engine runs it. */
export class SqlUserStore implements UserStore {
  readonly #engine: SqlEngine;
  readonly #db: Kysely<Schema>;

  private constructor(engine: SqlEngine) {
    this.#engine = engine;
    this.#db = engine.db;
  }

  /**
   * Takes over the engine. A schema of its own is brought up to date, a shared one only looked at.
   *
   * @throws MeshError `failed_precondition` naming the migration that failed, or saying what to run where a shared schema is
   * older or newer than this version; `unavailable`. The engine is closed then.
   */
  static async open(engine: SqlEngine): Promise<SqlUserStore> {
    try {
      await (engine.shared ? checkSchema(engine.db) : migrateSchema(engine.db));
    } catch (error) {
      await engine[Symbol.asyncDispose]();
      throw error;
    }
    return new SqlUserStore(engine);
  }

  get ready(): boolean {
    return this.#engine.ready;
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    return this.#engine[Symbol.asyncDispose]();
  }

  async createUsers(users: readonly NewUser[], atMs: number): Promise<void> {
    if (users.length === 0) return;
    const created_at = new Date(atMs);
    await this.#db.transaction().execute(async (tx) => {
      const created = await tx
        .insertInto('users')
        .values(users.map((u) => ({ id: u.userId, contact_number: u.contactNumber, name: u.name, created_at })))
        .onConflict((conflict) => conflict.column('contact_number').doNothing())
        .returning('contact_number')
        .execute();
      if (created.length < users.length) {
        const free = new Set(created.map((row) => row.contact_number));
        const taken = users.find((user) => !free.delete(user.contactNumber));
        throw new MeshError('already_exists', `the contact number ${taken?.contactNumber} is taken`);
      }
      await tx
        .insertInto('devices')
        .values(users.map((u) => ({ user_id: u.userId, id: u.deviceId, created_at })))
        .execute();
    });
  }

  findDevices(devices: readonly DeviceId[]): Promise<(DeviceState | undefined)[]> {
    return this.#engine.lookUp((queries) => findDevices(queries, devices));
  }

  async registerDevice(r: Registration, atMs: number): Promise<DeviceState | undefined> {
    const created_at = new Date(atMs);
    return await this.#db.transaction().execute(async (tx) => {
      if (r.createUser) {
        const user = { id: r.userId, created_at };
        await tx
          .insertInto('users')
          .values(user)
          .onConflict((conflict) => conflict.column('id').doNothing())
          .execute();
      }
      // Registrations of one user take turns, so that the count below is right when the row is inserted.
      await tx.selectFrom('users').select('id').where('id', '=', r.userId).forUpdate().execute();
      const [before] = await findDevices(tx, [r]);
      if (!before || before.suspended || before.deleted || before.device !== 'unknown') return before;
      const { count } = await tx
        .selectFrom('devices')
        .select((e) => e.fn.countAll<string>().as('count'))
        .where('user_id', '=', r.userId)
        .where('revoked_at', 'is', null)
        .executeTakeFirstOrThrow();
      if (Number(count) >= r.maxDevices) return before;
      await tx.insertInto('devices').values({ user_id: r.userId, id: r.deviceId, created_at }).execute();
      return { ...before, device: 'unannounced' };
    });
  }

  async confirmAnnounced(devices: readonly DeviceId[], atMs: number): Promise<void> {
    if (devices.length === 0) return;
    const [users, ids] = [devices.map((d) => d.userId), devices.map((d) => d.deviceId)];
    await this.#db
      .updateTable('devices')
      .set({ announced_at: new Date(atMs) })
      .where(sql<boolean>`(user_id, id) in (select * from unnest(${users}::uuid[], ${ids}::uuid[]))`)
      .where('announced_at', 'is', null)
      .execute();
  }

  async revokeDevice({ userId, deviceId }: DeviceId, atMs: number): Promise<void> {
    await this.#db
      .updateTable('devices')
      .set({ revoked_at: new Date(atMs) })
      .where('user_id', '=', userId)
      .where('id', '=', deviceId)
      .where('revoked_at', 'is', null)
      .execute();
  }

  async resolveUsers(userIds: readonly string[]): Promise<DirectoryRow[]> {
    if (userIds.length === 0) return [];
    return await this.#engine.lookUp((queries) => resolveUsers(queries, userIds));
  }

  async findProfile(userId: string): Promise<Profile | undefined> {
    const row = await this.#db
      .selectFrom('users')
      .select(['id', 'contact_number', 'name', 'email', 'picture_url', 'created_at'])
      .where('id', '=', userId)
      .where('deleted_at', 'is', null)
      .executeTakeFirst();
    if (!row) return undefined;
    return {
      userId: row.id,
      contactNumber: row.contact_number ?? '',
      name: row.name,
      email: row.email,
      pictureUrl: row.picture_url,
      createdAtMs: row.created_at.getTime(),
    };
  }

  async hasBlocked(userId: string, otherId: string): Promise<boolean> {
    const row = await this.#db
      .selectFrom('blocks')
      .select('user_id')
      .where('user_id', '=', userId)
      .where('blocked_id', '=', otherId)
      .executeTakeFirst();
    return row !== undefined;
  }

  async block(userId: string, blockedId: string, atMs: number): Promise<void> {
    await this.#db
      .insertInto('blocks')
      .values({ user_id: userId, blocked_id: blockedId, created_at: new Date(atMs) })
      .onConflict((conflict) => conflict.columns(['user_id', 'blocked_id']).doNothing())
      .execute();
  }

  async updateSettings(userId: string, { readReceipts }: { readonly readReceipts?: boolean }): Promise<void> {
    const changes = { ...(readReceipts !== undefined && { read_receipts: readReceipts }) };
    if (Object.keys(changes).length === 0) return;
    await this.#db
      .insertInto('settings')
      .values({ user_id: userId, ...changes })
      .onConflict((conflict) => conflict.column('user_id').doUpdateSet(changes))
      .execute();
  }

  async setSuspended(userId: string, sinceMs: number | undefined): Promise<boolean> {
    const { numUpdatedRows } = await this.#db
      .updateTable('users')
      .set((e) => ({
        suspended_at: sinceMs === undefined ? null : e.fn.coalesce('suspended_at', e.val(new Date(sinceMs))),
      }))
      .where('id', '=', userId)
      .where('deleted_at', 'is', null)
      .executeTakeFirstOrThrow();
    return numUpdatedRows > 0n;
  }

  async deleteUser(userId: string, atMs: number): Promise<void> {
    await this.#db
      .updateTable('users')
      .set({ deleted_at: new Date(atMs), contact_number: null })
      .where('id', '=', userId)
      .where('deleted_at', 'is', null)
      .execute();
  }

  async signingKeys(candidate?: SigningKey): Promise<SigningKey[]> {
    const keys = await listKeys(this.#db);
    if (keys.length > 0 || !candidate) return keys;
    return await this.#db.transaction().execute(async (tx) => {
      await sql`select pg_advisory_xact_lock(${sql.lit(FIRST_KEY_LOCK)})`.execute(tx);
      const present = await listKeys(tx);
      if (present.length > 0) return present;
      const { id, privateJwk, createdAtMs } = candidate;
      await tx
        .insertInto('signing_keys')
        .values({ id, private_jwk: privateJwk, created_at: new Date(createdAtMs) })
        .execute();
      return [candidate];
    });
  }
}

async function findDevices(db: Queries, devices: readonly DeviceId[]): Promise<(DeviceState | undefined)[]> {
  const [users, ids] = [devices.map((d) => d.userId), devices.map((d) => d.deviceId)];
  const { rows } = await sql<{
    userId: string | null;
    deviceId: string | null;
    suspended: boolean;
    deleted: boolean;
    revoked: boolean;
    announced: boolean;
  }>`
    select u.id as "userId", d.id as "deviceId",
      u.suspended_at is not null as suspended, u.deleted_at is not null as deleted,
      d.revoked_at is not null as revoked, d.announced_at is not null as announced
    from unnest(${users}::uuid[], ${ids}::uuid[]) with ordinality as asked (user_id, id, place)
    left join users u on u.id = asked.user_id
    left join devices d on d.user_id = u.id and d.id = asked.id
    order by asked.place`.execute(db);
  return rows.map(({ userId, deviceId, suspended, deleted, revoked, announced }) => {
    if (userId === null) return undefined;
    if (deviceId === null) return { suspended, deleted, device: 'unknown' };
    if (revoked) return { suspended, deleted, device: 'revoked' };
    return { suspended, deleted, device: announced ? 'announced' : 'unannounced' };
  });
}

async function resolveUsers(db: Queries, userIds: readonly string[]): Promise<DirectoryRow[]> {
  return await db
    .selectFrom('users')
    .leftJoin('settings', 'settings.user_id', 'users.id')
    .select((e) => [
      'users.id as userId',
      sql<string[]>`array(select d.id from devices d where d.user_id = users.id and d.revoked_at is null)`.as(
        'deviceIds',
      ),
      sql<string[]>`array(select b.blocked_id from blocks b where b.user_id = users.id)`.as('blockedUserIds'),
      e.fn.coalesce('settings.read_receipts', e.lit(true)).as('readReceipts'),
      e('users.suspended_at', 'is not', null).$castTo<boolean>().as('suspended'),
    ])
    .where(sql<boolean>`users.id = any(${userIds}::uuid[])`)
    .where('users.deleted_at', 'is', null)
    .execute();
}

async function listKeys(db: Queries): Promise<SigningKey[]> {
  const rows = await db.selectFrom('signing_keys').selectAll().orderBy('created_at').orderBy('id').execute();
  return rows.map((r) => ({ id: r.id, privateJwk: r.private_jwk, createdAtMs: r.created_at.getTime() }));
}
