import { randomUUID } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import { importPulsar, type PulsarApi } from '@chatmesh/mesh/pulsar';
import { describe, expect, test } from '@jest/globals';
import cassandra from 'cassandra-driver';
import { CassandraCluster, PulsarCluster } from '#engines';
import { until } from '../mesh.js';

/** What is there is read at once; what is lost would be waited for for ever. */
const READ_MS = 20_000;
const { quorum, all } = cassandra.types.consistencies;
const temporary = () => mkdtempSync(join(tmpdir(), 'chatmesh-cluster-test-'));
const numbers = (count: number) => Array.from({ length: count }, (_, i) => i);

/** Asks again for as long as a node that has just died, or come back, is taken for what it was before. */
async function retried<T>(request: () => Promise<T>): Promise<T> {
  const answers: T[] = [];
  let failure: unknown;
  const ask = () =>
    request().then(
      (answer) => answers.push(answer) > 0,
      (error) => {
        failure = error;
        return false;
      },
    );
  await until(ask, { timeoutMs: 60_000, what: () => `an answer instead of ${failure}` });
  return answers[0] as T;
}

/**
 * Every request for a token goes first to the replica in the own rack, whatever it is made of, and to another one when that
 * node is away. The last promise of a cluster: it is left with a dead node.
 */
async function expectOwnRackFirst(cluster: CassandraCluster, observer: cassandra.Client): Promise<void> {
  const own = cluster.nodes[1] as (typeof cluster.nodes)[number];
  const hosts = new Map(observer.hosts.values().map((host) => [host.address.split(':')[0], host]));
  await observer.execute('CREATE TABLE kept.rows (id uuid PRIMARY KEY, n int)');
  const session = await Cassandra.connect({
    contactPoints: (cluster.env.SCYLLA_CONTACT_POINTS as string).split(','),
    localDatacenter: cluster.env.SCYLLA_LOCAL_DATACENTER as string,
    keyspace: 'kept',
    rack: own.rack,
  });
  try {
    /** What sessions with the keyspace have asked each node that lives, as it counts. */
    const asked = async () => {
      const counts = new Map<string, number>();
      for (const { host, pid } of cluster.nodes) {
        if (pid === undefined) continue;
        const options = { host: hosts.get(host) as cassandra.Host, consistency: cassandra.types.consistencies.one };
        // A node that has come back a moment ago may still be taken for dead.
        const { rows } = await retried(() => observer.execute('SELECT * FROM system_views.clients', [], options));
        const ours = rows.filter(({ keyspace_name }) => keyspace_name === 'kept');
        counts.set(
          host,
          ours.reduce((sum, { request_count }) => sum + Number(request_count), 0),
        );
      }
      return counts;
    };
    const keys = Array.from({ length: 60 }, () => randomUUID());
    const row = (id: string) => ({ cql: 'INSERT INTO rows (id, n) VALUES (?, 1)', params: [id] });
    const rowsOf = (ids: readonly string[]) => session.readAll('SELECT id FROM rows WHERE id IN ?', ids);
    const each = async (work: (key: string) => Promise<unknown>) => {
      for (const key of keys) await work(key);
      return keys.length;
    };
    const kinds = {
      'one write': () => each((key) => session.write(row(key))),
      'one read': () => each((key) => session.read('SELECT id FROM rows WHERE id = ?', [key])),
      'writes that are joined': async () => {
        await session.writeAll(keys.map((key) => ({ key, statements: [row(key)] })));
        return keys.length / 10;
      },
      'reads that are joined': async () => {
        expect(await rowsOf(keys)).toHaveLength(keys.length);
        return keys.length / 10;
      },
    };
    for (const [kind, work] of Object.entries(kinds)) {
      // The first one prepares statements, on every node.
      await work();
      let elsewhere = Number.POSITIVE_INFINITY;
      let requests = 0;
      // A node that is slow has a read asked of another one as well: on a busy machine that may be all of a round.
      for (let round = 0; round < 5 && elsewhere >= requests / 2; round++) {
        const before = await asked();
        requests = await work();
        const after = await asked();
        const more = cluster.nodes.map(({ host }) => (after.get(host) ?? 0) - (before.get(host) ?? 0));
        const first = Math.min(more[1] as number, requests);
        expect({ kind, first, of: requests }).toEqual({ kind, first: requests, of: requests });
        elsewhere = (more[0] as number) + (more[2] as number);
      }
      expect(elsewhere).toBeLessThan(requests / 2);
    }
    await own.kill();
    // For as long as the others take the dead node for alive they may ask it in vain.
    for (const work of Object.values(kinds)) await retried(work);
  } finally {
    await session[Symbol.asyncDispose]();
  }
}

describe('what a quorum has confirmed is there without any one of three, and writing goes on', () => {
  test('Cassandra, three replicas', async () => {
    const cluster = new CassandraCluster({ directory: temporary() });
    let client: cassandra.Client | undefined;
    try {
      await cluster.start();
      client = new cassandra.Client({
        contactPoints: (cluster.env.SCYLLA_CONTACT_POINTS as string).split(','),
        localDataCenter: cluster.env.SCYLLA_LOCAL_DATACENTER as string,
        // That of the nodes that the driver discovers; its own default would lead to whoever listens there.
        protocolOptions: { port: cluster.nodes[0]?.ports.native as number },
      });
      await client.connect();
      let written = 1;
      const options = { prepare: true, isIdempotent: true, consistency: quorum };
      const write = async (id: number, consistency = quorum) => {
        await client?.execute('INSERT INTO kept.words (id) VALUES (?)', [id], { ...options, consistency });
      };
      // Each by its key: a node that is slow to answer is then passed over, and for a scan it would be waited for.
      const read = async () => {
        const one = (id: number) => client?.execute('SELECT id FROM kept.words WHERE id = ?', [id], options);
        const results = await Promise.all(numbers(written).map(one));
        return results.flatMap((result) => result?.rows.map(({ id }) => Number(id)) ?? []);
      };
      const complete = () => retried(() => write(0, all));

      await client.execute(
        "CREATE KEYSPACE kept WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}",
      );
      await client.execute('CREATE TABLE kept.words (id int PRIMARY KEY)');
      await complete();
      for (const node of cluster.nodes) {
        for (let i = 0; i < 10; i += 1, written += 1) await write(written);
        await node.kill();
        expect(await retried(read)).toEqual(numbers(written));
        for (let i = 0; i < 10; i += 1, written += 1) await retried(() => write(written));
        await node.start();
        await complete();
      }
      expect(await read()).toEqual(numbers(written));
      await expectOwnRackFirst(cluster, client);
    } finally {
      await client?.shutdown();
      await cluster.wipe();
    }
  });

  test('Pulsar, three bookies', async () => {
    const cluster = new PulsarCluster({ directory: temporary() });
    let client: InstanceType<PulsarApi['Client']> | undefined;
    try {
      await cluster.start();
      const { Client, MessageId } = await importPulsar();
      client = new Client({ serviceUrl: cluster.env.PULSAR_URL as string, operationTimeoutSeconds: 30 });
      const opened = client;
      const topic = 'persistent://public/default/kept';
      // A topic keeps what a subscription has yet to get, and nothing else.
      await (await client.subscribe({ topic, subscription: 'kept' })).close();
      const producer = await client.createProducer({ topic, batchingEnabled: false, sendTimeoutMs: 60_000 });
      let written = 0;
      const write = () => producer.send({ data: Buffer.from(String(written++)) });
      const read = async () => {
        const reader = await opened.createReader({ topic, startMessageId: MessageId.earliest() });
        const found = [];
        while (found.length < written) found.push(Number((await reader.readNext(READ_MS)).getData().toString()));
        await reader.close();
        return found;
      };

      for (const bookie of cluster.bookies) {
        for (let i = 0; i < 10; i += 1) await write();
        await bookie.kill();
        expect(await read()).toEqual(numbers(written));
        for (let i = 0; i < 10; i += 1) await write();
        await bookie.start();
      }
      // What a broker remembers proves nothing about the bookies: here it starts without.
      await cluster.broker.kill();
      await cluster.broker.start();
      await write();
      await cluster.bookies[0]?.kill();
      expect(await read()).toEqual(numbers(written));
    } finally {
      await client?.close();
      await cluster.wipe();
    }
  });
});
