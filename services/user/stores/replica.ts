import { setTimeout as sleep } from 'node:timers/promises';
import { Batcher, type Logger, MeshError } from '@chatmesh/mesh';
import { reasonOf, type SqlPool } from '@chatmesh/mesh/sql';
import { type Kysely, sql } from 'kysely';
import type { Schema } from './schema.js';
import type { Queries } from './sql-user-store.js';

/** How long a look-up waits for a standby that is a little behind: the pauses between asking, milliseconds. */
const PAUSES_MS = [2, 4, 8, 16, 32];
/** How long a standby that is away or far behind is left alone before it is looked at again. */
const REST_MS = 2_000;
const MAX_JOINED = 10_000;

/** Where the primary's log stands, and whose log it is. */
interface Position {
  readonly lsn: string;
  readonly identity: string;
}

/**
 * Look-ups on a physical standby that are as fresh as those on the primary. The primary is asked how far its log is flushed, which
 * covers every commit that was answered before, and the standby answers when it has replayed that far. So nothing is stale
 * and the primary has nothing to read; look-ups that come together share its answer. Where the standby is away, lags
 * behind, was promoted or belongs to another database, the primary answers itself.
 */
export class Replica implements AsyncDisposable {
  readonly #primary: SqlPool;
  readonly #standby: SqlPool;
  readonly #queries: Kysely<Schema>;
  readonly #logger: Logger;
  readonly #positions = new Batcher((asking: readonly symbol[]) => this.#position(asking.length), {
    maxKeys: MAX_JOINED,
  });
  /** While it is, look-ups go to the primary, and one after another looks in the background whether it still is. */
  #away = false;
  #triedAtMs = 0;

  constructor(primary: SqlPool, standby: SqlPool, queries: Kysely<Schema>, logger: Logger) {
    this.#primary = primary;
    this.#standby = standby;
    this.#queries = queries;
    this.#logger = logger;
  }

  /** @param ask reads only. @throws what `ask` throws on the primary. */
  async lookUp<T>(ask: (queries: Queries) => Promise<T>, primary: Queries): Promise<T> {
    if (this.#away) {
      void this.#tryAgain();
      return await ask(primary);
    }
    try {
      return await this.#fresh(ask);
    } catch (error) {
      if (!this.#away)
        this.#logger.warn({ reason: reasonOf(error) }, 'look-ups go to the primary: the replica cannot answer');
      this.#away = true;
      this.#triedAtMs = performance.now();
      return await ask(primary);
    }
  }

  async #tryAgain(): Promise<void> {
    if (performance.now() < this.#triedAtMs + REST_MS) return;
    this.#triedAtMs = Number.POSITIVE_INFINITY;
    try {
      await this.#fresh(async () => {});
      this.#away = false;
      this.#logger.info('look-ups go to the replica again');
    } catch {
      // It was said when it went away.
    } finally {
      this.#triedAtMs = performance.now();
    }
  }

  /** Asks the standby, on one connection: where several share a name, the one that was looked at is the one that answers. */
  async #fresh<T>(ask: (queries: Queries) => Promise<T>): Promise<T> {
    const position = await this.#positions.get(Symbol());
    return await this.#queries.connection().execute(async (standby) => {
      await replayed(standby, position);
      return await ask(standby);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#standby.end();
  }

  async #position(count: number): Promise<Position[]> {
    const [position] = await this.#primary.query<Position>(
      `select pg_current_wal_flush_lsn()::text as lsn, system_identifier || '/' || current_database() as identity
      from pg_control_system()`,
    );
    if (!position) throw new MeshError('internal', 'the primary did not say how far its log is');
    return Array.from({ length: count }, () => position);
  }
}

/** Resolves when the standby has everything up to `position`; before the look-up's statement, which sees what was there at its start. */
async function replayed(standby: Kysely<Schema>, { lsn, identity }: Position): Promise<void> {
  for (const pauseMs of [...PAUSES_MS, undefined]) {
    const { rows } = await sql<{ identity: string; standby: boolean; caughtUp: boolean }>`
      select system_identifier || '/' || current_database() as identity, pg_is_in_recovery() as standby,
        coalesce(pg_last_wal_replay_lsn() >= ${lsn}::pg_lsn, false) as "caughtUp"
      from pg_control_system()`.execute(standby);
    const [row] = rows;
    if (row?.identity !== identity) throw new Error('DATABASE_REPLICA_URL is no replica of DATABASE_URL');
    if (!row.standby) throw new Error('the replica has been promoted');
    if (row.caughtUp) return;
    if (pauseMs !== undefined) await sleep(pauseMs);
  }
  throw new Error('the replica lags behind');
}
