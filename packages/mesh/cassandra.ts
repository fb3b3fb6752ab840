import { Client, type ClientOptions, type ExecutionOptions, type Host, policies, types } from 'cassandra-driver';
import { readCa } from './ca-file.js';
import { meshErrorOf, refusal, unavailable } from './cassandra-errors.js';
import { type EngineOperation, engineOperation } from './engine-times.js';
import { MeshError } from './errors.js';
import { Metrics } from './observe.js';
import { inParallel, Slots } from './parallel.js';

export { inParallel } from './parallel.js';

/** How to reach a cluster of ScyllaDB or Cassandra. */
export interface CassandraOptions {
  /** host:port of some nodes; the others listen on the first one's port. */
  readonly contactPoints: readonly string[];
  /** The only data center that is asked. */
  readonly localDatacenter: string;
  readonly keyspace: string;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** File with the certificate of the authority that signed the nodes' certificates; with it TLS is used. */
  readonly tlsCaFile?: string | undefined;
  /** Replicas of this rack are asked first. */
  readonly rack?: string | undefined;
  /** After so long a request has failed, milliseconds. */
  readonly readDeadlineMs?: number;
  readonly writeDeadlineMs?: number;
}

/** A statement and its parameters in the order of its question marks; bigint columns are bigints, uuids may be text. */
export interface Statement {
  readonly cql: string;
  readonly params: readonly unknown[];
}

/** Statements of one partition, whose key is a uuid. */
export interface PartitionWrite {
  readonly key: string;
  readonly statements: readonly Statement[];
}

/**
 * So many partitions are asked for, or written, in one request: servers warn of more (Cassandra's
 * unlogged_batch_across_partitions_warn_threshold), and of batches of more than 5 KiB, where ten status rows have two.
 */
const JOINED = 10;
/** A node under full load may take a second; whoever waits longer is better told to come again. */
const DEADLINE_MS = 3_000;
/** Of all requests together; what a node's one connection carries (2,048) is more. */
const MAX_IN_FLIGHT = 1_024;
/** A read that takes longer than most is sent to a second replica as well. */
const SPECULATIVE_AFTER_MS = 100;
const CONNECT_DEADLINE_MS = 10_000;
/** For one node to answer one request, before another one is asked, where there is one. */
const ATTEMPT_MS = 1_000;
const FIRST_RECONNECT_MS = 500;
const LAST_RECONNECT_MS = 2_000;

/**
 * A session with a cluster: LOCAL_QUORUM for reads and writes, sent to a replica first, prepared. Every statement has to be
 * idempotent: a request that fails is tried once more on another node. Every call has a deadline, and at most
 * {@link MAX_IN_FLIGHT} requests are on their way.
 *
 * All methods throw MeshError: `unavailable` for outages, timeouts and overload, `failed_precondition` for wrong
 * credentials or a missing keyspace or table.
 */
export class Cassandra implements AsyncDisposable {
  readonly keyspace: string;
  readonly #client: Client;
  readonly #localDatacenter: string;
  readonly #rack: string | undefined;
  readonly #readDeadlineMs: number;
  readonly #writeDeadlineMs: number;
  readonly #slots = new Slots(MAX_IN_FLIGHT);
  readonly #reads: EngineOperation;
  readonly #writes: EngineOperation;

  private constructor(client: Client, options: CassandraOptions, metrics: Metrics) {
    this.keyspace = options.keyspace;
    this.#client = client;
    this.#localDatacenter = options.localDatacenter;
    this.#rack = options.rack;
    this.#readDeadlineMs = options.readDeadlineMs ?? DEADLINE_MS;
    this.#writeDeadlineMs = options.writeDeadlineMs ?? DEADLINE_MS;
    this.#reads = engineOperation(metrics, 'cassandra', 'read');
    this.#writes = engineOperation(metrics, 'cassandra', 'write');
  }

  /** Connects, in one attempt. Once connected, it finds by itself which nodes answer, go and come. */
  static async connect(
    options: CassandraOptions,
    metrics = new Metrics({ processMetrics: false }),
  ): Promise<Cassandra> {
    const client = new Client(clientOptions(options));
    const connecting = client.connect();
    const { late, done } = deadlineOf(CONNECT_DEADLINE_MS);
    try {
      await Promise.race([connecting, late]);
      return new Cassandra(client, options, metrics);
    } catch (error) {
      const shutdown = () => client.shutdown();
      connecting.then(shutdown, shutdown).catch(() => {});
      throw refusal(error, options);
    } finally {
      done();
    }
  }

  /** The rows of a SELECT, all of them; bigints as bigint, uuids as objects with toString, blobs as Buffer of their own. */
  async read<Row>(cql: string, params: readonly unknown[]): Promise<Row[]> {
    return this.#read(cql, params, {});
  }

  async #read<Row>(cql: string, params: readonly unknown[], routing: { routingKey?: Buffer }): Promise<Row[]> {
    const rows: Row[] = [];
    let pageState: Buffer | undefined;
    do {
      const options = { ...this.#request(this.#readDeadlineMs), ...routing, ...(pageState && { pageState }) };
      const result = await this.#reads.time(() =>
        this.#within(this.#readDeadlineMs, (client) => client.execute(cql, params as unknown[], options)),
      );
      rows.push(...(result.rows as unknown as Row[]));
      pageState = result.pageState ? Buffer.from(result.pageState, 'hex') : undefined;
    } while (pageState);
    return rows;
  }

  /** Writes statements; those of one partition all or none of them. */
  async write(...statements: readonly Statement[]): Promise<void> {
    const [first] = statements;
    if (!first) return;
    const request = this.#request(this.#writeDeadlineMs);
    const send = (client: Client) =>
      statements.length === 1
        ? client.execute(first.cql, first.params as unknown[], request)
        : client.batch(
            statements.map(({ cql, params }) => ({ query: cql, params: params as unknown[] })),
            { ...request, logged: false },
          );
    await this.#writes.time(() => this.#within(this.#writeDeadlineMs, send));
  }

  /**
   * Writes to many partitions. Those that the same node is asked for first go to it ten at a time: a request costs both ends
   * several times what one more row in it does. What belongs to one partition is written whole or not at all.
   */
  async writeAll(writes: readonly PartitionWrite[]): Promise<void> {
    await inParallel(this.#joined(writes), (group) => this.write(...group.flatMap(({ statements }) => statements)));
  }

  /**
   * The rows of many partitions, joined likewise.
   *
   * @param cql a SELECT with the condition that the partition's key, a uuid, is `IN ?`.
   */
  async readAll<Row>(cql: string, keys: readonly string[]): Promise<Row[]> {
    const groups = this.#joined(keys.map((key) => ({ key })));
    const rows = await inParallel(groups, (group) => {
      const [first] = group as [{ readonly key: string }];
      // The driver does not look into a list: without being told it would ask any node.
      return this.#read<Row>(cql, [group.map(({ key }) => key)], { routingKey: bytesOf(first.key) });
    });
    return rows.flat();
  }

  #joined<T extends { readonly key: string }>(items: readonly T[]): T[][] {
    const groups: T[][] = [];
    const open = new Map<Host | undefined, T[]>();
    const alone = items.length < 2 || this.#client.hosts.length === 1;
    for (const item of items) {
      const host = alone ? undefined : this.#firstReplica(item.key);
      let group = open.get(host);
      if (!group || group.length === JOINED) {
        group = [];
        open.set(host, group);
        groups.push(group);
      }
      group.push(item);
    }
    return groups;
  }

  #firstReplica(key: string): Host | undefined {
    const replicas = this.#client.getReplicas(this.keyspace, bytesOf(key)) as Host[] | null;
    const local = replicas?.filter(({ datacenter }) => datacenter === this.#localDatacenter);
    return local?.find(({ rack }) => rack === this.#rack) ?? local?.[0];
  }

  /**
   * Changes the schema: statements in order, all through the node with the lowest address, so that two who create the same
   * table at the same time do not make two of it.
   */
  async define(statements: readonly string[]): Promise<void> {
    for (const cql of statements) {
      await this.#within(SCHEMA_DEADLINE_MS, (client) => client.execute(cql, [], schemaRequest(this.#nodes()[0])));
    }
  }

  /**
   * Creates the keyspace with so many replicas in the local data center, unless it exists.
   *
   * @throws MeshError `failed_precondition` when there are not so many nodes.
   */
  static async createKeyspace(options: CassandraOptions, replicationFactor: number): Promise<void> {
    const { keyspace, localDatacenter } = options;
    const cluster = await Cassandra.connect({ ...options, keyspace: '' });
    try {
      const nodes = cluster.#nodes().length;
      if (replicationFactor > nodes)
        throw new MeshError(
          'failed_precondition',
          `SCYLLA_REPLICATION_FACTOR=${replicationFactor} is more than the nodes of data center ${localDatacenter} (${nodes}): add nodes, or set it to ${nodes}`,
        );
      await cluster.define([
        `CREATE KEYSPACE IF NOT EXISTS ${keyspace} WITH replication = {'class': 'NetworkTopologyStrategy', '${localDatacenter.replaceAll("'", "''")}': ${replicationFactor}}`,
      ]);
    } finally {
      await cluster[Symbol.asyncDispose]();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.shutdown().catch(() => {});
  }

  /** Nodes of the local data center, by address. */
  #nodes(): Host[] {
    const nodes = this.#client.hosts.values().filter((host) => host.datacenter === this.#localDatacenter);
    return nodes.sort((a, b) => (a.address < b.address ? -1 : 1));
  }

  /** A single node has the whole deadline: an attempt that ends before has nobody else to turn to. */
  #request(deadlineMs: number) {
    return { ...REQUEST, readTimeout: this.#client.hosts.length === 1 ? deadlineMs : ATTEMPT_MS };
  }

  async #within<T>(deadlineMs: number, request: (client: Client) => Promise<T>): Promise<T> {
    const deadline = deadlineOf(deadlineMs);
    try {
      // What is late before it has a slot is not sent any more.
      const answer = this.#slots.run(() => (deadline.passed ? deadline.late : request(this.#client)));
      return await Promise.race([answer, deadline.late]);
    } catch (error) {
      throw meshErrorOf(error, this.keyspace);
    } finally {
      deadline.done();
    }
  }
}

function bytesOf(uuid: string): Buffer {
  return types.Uuid.fromString(uuid).getBuffer();
}

const REQUEST = { prepare: true, isIdempotent: true } as const;
/** Nodes agree on a schema within seconds, one statement after another. */
const SCHEMA_DEADLINE_MS = 30_000;

function schemaRequest(host: Host | undefined) {
  return { prepare: false, isIdempotent: false, readTimeout: SCHEMA_DEADLINE_MS, ...(host && { host }) };
}

function clientOptions(options: CassandraOptions): ClientOptions {
  const { contactPoints, localDatacenter, keyspace, username, password, tlsCaFile, rack } = options;
  const ca = readCa(tlsCaFile, 'SCYLLA_TLS_CA');
  return {
    contactPoints: [...contactPoints],
    localDataCenter: localDatacenter,
    ...(keyspace && { keyspace }),
    ...(username !== undefined && { credentials: { username, password: password ?? '' } }),
    ...(ca && { sslOptions: { ca: [ca], rejectUnauthorized: true } }),
    protocolOptions: { port: Number(contactPoints[0]?.split(':').at(-1)) },
    queryOptions: { consistency: types.consistencies.localQuorum },
    socketOptions: { connectTimeout: ATTEMPT_MS, readTimeout: ATTEMPT_MS },
    encoding: { useBigIntAsLong: true },
    policies: {
      loadBalancing: rack ? new RackFirst(rack) : new policies.loadBalancing.DefaultLoadBalancingPolicy(),
      reconnection: new policies.reconnection.ExponentialReconnectionPolicy(
        FIRST_RECONNECT_MS,
        LAST_RECONNECT_MS,
        false,
      ),
      retry: new OnceOnAnotherNode(),
      speculativeExecution: new SpeculativeReads(SPECULATIVE_AFTER_MS, 1),
    },
  };
}

/** A promise that fails as late after so many milliseconds, unless `done` is called. */
function deadlineOf(ms: number): { late: Promise<never>; done: () => void; readonly passed: boolean } {
  let timer: NodeJS.Timeout | undefined;
  let passed = false;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      passed = true;
      reject(unavailable(new Error(`no answer within ${ms} ms`)));
    }, ms);
  });
  return {
    late,
    done: () => clearTimeout(timer),
    get passed() {
      return passed;
    },
  };
}

class OnceOnAnotherNode extends policies.retry.RetryPolicy {
  override onReadTimeout(info: policies.retry.OperationInfo) {
    return this.#once(info);
  }
  override onWriteTimeout(info: policies.retry.OperationInfo) {
    return this.#once(info);
  }
  override onUnavailable(info: policies.retry.OperationInfo) {
    return this.#once(info);
  }
  override onRequestError(info: policies.retry.OperationInfo) {
    return this.#once(info);
  }
  #once({ nbRetry }: policies.retry.OperationInfo) {
    return nbRetry > 0 ? this.rethrowResult() : this.retryResult(types.consistencies.localQuorum, false);
  }
}

class SpeculativeReads extends policies.speculativeExecution.ConstantSpeculativeExecutionPolicy {
  readonly #never = { nextExecution: () => -1 };

  override newPlan(keyspace: string, query: string | object[]) {
    return typeof query === 'string' && query.startsWith('SELECT') ? super.newPlan(keyspace, query) : this.#never;
  }
}

/** The replicas that the driver would ask, those in the own rack before the others: a hop between racks costs time and money. */
class RackFirst extends policies.loadBalancing.DefaultLoadBalancingPolicy {
  readonly #rack: string;
  #cluster: Client | undefined;

  constructor(rack: string) {
    super();
    this.#rack = rack;
  }

  override init(client: Client, hosts: Client['hosts'], callback: (error: Error) => void): void {
    this.#cluster = client;
    super.init(client, hosts, callback);
  }

  override newQueryPlan(
    keyspace: string,
    execution: ExecutionOptions | null,
    callback: (error: Error, plan: Iterator<Host>) => void,
  ): void {
    super.newQueryPlan(keyspace, execution as ExecutionOptions, (error, plan) => {
      const key = execution?.getRoutingKey();
      const replicas = key && keyspace ? this.#cluster?.getReplicas(keyspace, key as Buffer) : undefined;
      callback(error, error || !replicas ? plan : rackFirst(plan, new Set(replicas), this.#rack));
    });
  }
}

function* rackFirst(plan: Iterator<Host>, replicas: ReadonlySet<Host>, rack: string): Iterator<Host> {
  const others: Host[] = [];
  let next = plan.next();
  for (; !next.done && replicas.has(next.value); next = plan.next()) {
    if (next.value.rack === rack) yield next.value;
    else others.push(next.value);
  }
  yield* others;
  for (; !next.done; next = plan.next()) yield next.value;
}
