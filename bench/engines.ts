import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Cassandra, missingFor, Postgres, Pulsar, Redis } from '#engines';

const MIGRATE = fileURLToPath(new URL('../../services/dist/migrate.js', import.meta.url));
const PARTITIONS = 12;

/** Cassandra, Pulsar, Redis and PostgreSQL of this run, prepared for the mesh. */
export class RealEngines implements AsyncDisposable {
  /** What a mesh has to know. */
  readonly env: NodeJS.ProcessEnv;
  readonly #engines: readonly (Cassandra | Pulsar | Redis | Postgres)[];
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
    this.#engines = [
      new Cassandra({ directory: join(directory, 'cassandra') }),
      new Pulsar({ directory: join(directory, 'pulsar') }),
      new Redis({ directory: join(directory, 'redis') }),
      new Postgres({ directory: join(directory, 'postgres') }),
    ];
    this.env = {
      PULSAR_PARTITIONS: String(PARTITIONS),
      SCYLLA_REPLICATION_FACTOR: '1',
      CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
    };
  }

  /** @throws Error that says what is missing on this machine. */
  static async start(): Promise<RealEngines> {
    const missing = missingFor(['cassandra', 'pulsar', 'redis', 'postgres']);
    if (missing.length > 0) throw new Error(missing.join('\n'));
    const engines = new RealEngines(mkdtempSync(join(tmpdir(), 'chatmesh-bench-engines-')));
    try {
      await Promise.all(engines.#engines.map((engine) => engine.start()));
      Object.assign(engines.env, ...engines.#engines.map(({ env }) => env));
      await promisify(execFile)(process.execPath, [MIGRATE], { env: { ...process.env, ...engines.env } });
      return engines;
    } catch (error) {
      await engines[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#engines.map((engine) => engine.kill()));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
