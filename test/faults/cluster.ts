import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger } from '@chatmesh/mesh';
import { Cassandra, CassandraCluster, freePorts, Postgres, Pulsar, PulsarCluster, Redis } from '#engines';
import { CuttableWire } from '../cuttable-wire.js';
import { MeshProcess, type ServiceName, type TestUser } from '../mesh.js';

const MIGRATE = fileURLToPath(new URL('../../../services/dist/migrate.js', import.meta.url));
const CLOCK_SKEW = new URL('../../faults/clock-skew.mjs', import.meta.url).href;
const silent = createLogger({ name: 'test', level: 'silent' });
export const EDGES = 2;
/** The third one runs only when a fault says so. */
export const ROUTERS = 3;
const PARTITIONS = 12;

/** True has three Cassandra nodes, with three replicas of everything, and a broker on three bookies (quorums 3/3/2). */
export const REPLICATED = process.env.FAULT_REPLICATED === 'true';

/** A mesh of separate processes on real engines of its own: two edges, two routers and a place for a third, user, presence. */
export class Cluster implements AsyncDisposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'chatmesh-faults-'));
  readonly pulsar = new (REPLICATED ? PulsarCluster : Pulsar)({ directory: join(this.directory, 'pulsar') });
  readonly cassandra = new (REPLICATED ? CassandraCluster : Cassandra)({
    directory: join(this.directory, 'cassandra'),
  });
  readonly redis = new Redis({ directory: join(this.directory, 'redis') });
  readonly postgres = new Postgres({ directory: join(this.directory, 'postgres') });
  readonly edges: MeshProcess[] = [];
  readonly routers: MeshProcess[] = [];
  /** By edge and router: the wire between them. */
  readonly wires: CuttableWire[][] = [];
  /** Of each edge's WebSocket. */
  readonly urls: string[] = [];
  user!: MeshProcess;
  presence!: MeshProcess;
  #env: NodeJS.ProcessEnv = {};
  #nextNumber = 15_550_000_000;
  #ports: { user: number; routers: number[]; routerAdmins: number[] } = { user: 0, routers: [], routerAdmins: [] };

  static async start(): Promise<Cluster> {
    const cluster = new Cluster();
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  get engines() {
    return [this.pulsar, this.cassandra, this.redis, this.postgres] as const;
  }

  get processes(): MeshProcess[] {
    return [...this.edges, ...this.routers, this.user, this.presence].filter((process) => process !== undefined);
  }

  /** A router of the same place, with its clock off by so much. */
  async replaceRouter(index: number, clockSkewMs: number): Promise<void> {
    await this.routers[index]?.end('SIGTERM');
    this.routers[index] = this.#router(index, clockSkewMs);
    await this.routers[index]?.start();
  }

  /** Users with a device and a token each. */
  async users(count: number): Promise<TestUser[]> {
    const client = createClient(DirectoryService, { address: `127.0.0.1:${this.#ports.user}`, logger: silent });
    try {
      const { users } = await client.createUsers({
        contactNumber: `+${this.#nextNumber}`,
        name: 'Test',
        count,
        tokenTtlSeconds: 0,
      });
      this.#nextNumber += count;
      return users;
    } finally {
      client.close();
    }
  }

  /** What the broker knows of each partition, for when something failed. */
  async logState(): Promise<string> {
    const topic = `${this.pulsar.env.PULSAR_ADMIN_URL}/admin/v2/persistent/chatmesh/mesh/events`;
    const response = await fetch(`${topic}/partitioned-stats?perPartition=true`).catch(() => undefined);
    if (!response?.ok) return 'the broker says nothing about the log';
    type Consumer = { consumerName: string; availablePermits: number; msgOutCounter: number };
    type Subscription = { msgBacklog: number; activeConsumerName?: string; consumers: Consumer[] };
    const { partitions } = (await response.json()) as {
      partitions: Record<string, { subscriptions: Record<string, Subscription> }>;
    };
    return Object.entries(partitions)
      .map(([name, { subscriptions }]) => {
        const { msgBacklog, activeConsumerName, consumers = [] } = subscriptions.routers ?? {};
        const { availablePermits, msgOutCounter } =
          consumers.find(({ consumerName }) => consumerName === activeConsumerName) ?? {};
        return `${name}: ${msgBacklog} entries wait, ${activeConsumerName} of ${consumers.length} has it, was sent ${msgOutCounter} and takes ${availablePermits} more`;
      })
      .join('\n');
  }

  /** The end of what each process has printed, for when something failed. */
  output(lines = 40): string {
    return this.processes
      .map((process) => `--- ${process.services.join()} (${process.pid})\n${tail(process.output, lines)}`)
      .join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.processes.map((process) => process.end('SIGKILL')));
    await Promise.all(this.wires.flat().map((wire) => wire[Symbol.asyncDispose]()));
    await Promise.all(this.engines.map((engine) => engine.wipe()));
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    await Promise.all(this.engines.map((engine) => engine.start()));
    const [user = 0, userAdmin = 0, presence = 0, presenceAdmin = 0, ...rest] = await freePorts(
      4 + 2 * ROUTERS + 3 * EDGES,
    );
    const routers = rest.splice(0, ROUTERS);
    this.#ports = { user, routers, routerAdmins: rest.splice(0, ROUTERS) };
    this.#env = {
      PATH: process.env.PATH,
      ...Object.assign({}, ...this.engines.map((engine) => engine.env)),
      PULSAR_PARTITIONS: String(PARTITIONS),
      SCYLLA_REPLICATION_FACTOR: REPLICATED ? '3' : '1',
      CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
      USER_PORT: String(user),
      PRESENCE_PORT: String(presence),
      EDGE_HOST: '127.0.0.1',
      SEND_RATE: '0',
      LOG_LEVEL: 'info',
    };
    await promisify(execFile)(process.execPath, [MIGRATE], { env: this.#env });
    this.user = this.#process('user', userAdmin, {});
    this.presence = this.#process('presence', presenceAdmin, {});
    for (let i = 0; i < ROUTERS; i++) this.routers.push(this.#router(i, 0));
    for (let i = 0; i < EDGES; i++) {
      const [port = 0, h2 = 0, admin = 0] = rest.splice(0, 3);
      const wires = await Promise.all(routers.map((port) => CuttableWire.to(port)));
      this.wires.push(wires);
      this.edges.push(
        this.#process('edge', admin, {
          EDGE_PORT: String(port),
          EDGE_H2_PORT: String(h2),
          CHAT_ADDRESSES: wires.map(({ port }) => `127.0.0.1:${port}`).join(),
        }),
      );
      this.urls.push(`ws://127.0.0.1:${port}/connect`);
    }
    const [first, second] = this.routers;
    await Promise.all([this.user, this.presence, first, second, ...this.edges].map((process) => process?.start()));
  }

  #router(index: number, clockSkewMs: number): MeshProcess {
    const skew =
      clockSkewMs === 0 ? {} : { NODE_OPTIONS: `--import=${CLOCK_SKEW}`, CLOCK_SKEW_MS: String(clockSkewMs) };
    return this.#process('chat', this.#ports.routerAdmins[index] ?? 0, {
      CHAT_PORT: String(this.#ports.routers[index]),
      ...skew,
    });
  }

  #process(service: ServiceName, adminPort: number, env: NodeJS.ProcessEnv): MeshProcess {
    return new MeshProcess([service], adminPort, { ...this.#env, ...env, DATA_DIR: join(this.directory, service) });
  }
}

function tail(text: string, lines: number): string {
  return text.trimEnd().split('\n').slice(-lines).join('\n');
}
