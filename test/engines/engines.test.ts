import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { importPulsar } from '@chatmesh/mesh/pulsar';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import cassandra from 'cassandra-driver';
import { Redis as RedisClient } from 'ioredis';
import pg from 'pg';
import { Cassandra, Postgres, Pulsar, Redis } from '#engines';
import { until } from '../mesh.js';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-engines-test-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** Runs `use` with a client of this moment, and closes it: clients of before a death are no part of these promises. */
async function withCassandra<T>(engine: Cassandra, use: (client: cassandra.Client) => Promise<T>): Promise<T> {
  const { SCYLLA_CONTACT_POINTS, SCYLLA_LOCAL_DATACENTER } = engine.env;
  const client = new cassandra.Client({
    contactPoints: [SCYLLA_CONTACT_POINTS as string],
    localDataCenter: SCYLLA_LOCAL_DATACENTER as string,
  });
  try {
    await client.connect();
    return await use(client);
  } finally {
    await client.shutdown();
  }
}

async function withPostgres<T>(engine: Postgres, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: engine.env.DATABASE_URL });
  try {
    await client.connect();
    return await use(client);
  } finally {
    await client.end();
  }
}

async function withRedis<T>(engine: Redis, use: (client: RedisClient) => Promise<T>): Promise<T> {
  const client = new RedisClient(engine.env.REDIS_URL as string);
  try {
    return await use(client);
  } finally {
    client.disconnect();
  }
}

describe('what an engine has confirmed is there after kill -9 and a restart on the same ports', () => {
  test('Cassandra', async () => {
    const engine = new Cassandra({ directory });
    try {
      await engine.start();
      const { env } = engine;
      await withCassandra(engine, async (client) => {
        await client.execute(
          "CREATE KEYSPACE kept WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 1}",
        );
        await client.execute('CREATE TABLE kept.words (id int PRIMARY KEY, word text)');
        await client.execute("INSERT INTO kept.words (id, word) VALUES (1, 'here')");
      });
      await engine.kill();
      expect(await engine.answers({ timeoutMs: 1000 })).toBe(false);
      await engine.start();
      expect(engine.env).toEqual(env);
      const { rows } = await withCassandra(engine, (client) => client.execute('SELECT word FROM kept.words'));
      expect(rows.map(({ word }) => word)).toEqual(['here']);
    } finally {
      await engine.wipe();
    }
  });

  test('PostgreSQL', async () => {
    const engine = new Postgres({ directory });
    try {
      await engine.start();
      const { env } = engine;
      await withPostgres(engine, (client) => client.query("CREATE TABLE words AS SELECT 'here' AS word"));
      await engine.kill();
      await engine.start();
      expect(engine.env).toEqual(env);
      const { rows } = await withPostgres(engine, (client) => client.query('SELECT word FROM words'));
      expect(rows).toEqual([{ word: 'here' }]);
    } finally {
      await engine.wipe();
    }
  });

  test('Redis', async () => {
    const engine = new Redis({ directory });
    try {
      await engine.start();
      const { env } = engine;
      await withRedis(engine, (client) => client.set('word', 'here'));
      await engine.kill();
      await engine.start();
      expect(engine.env).toEqual(env);
      expect(await withRedis(engine, (client) => client.get('word'))).toBe('here');
    } finally {
      await engine.wipe();
    }
  });

  test('Pulsar: messages, and which of them were acknowledged', async () => {
    const engine = new Pulsar({ directory });
    try {
      await engine.start();
      const { env } = engine;
      const { Client } = await importPulsar();
      const topic = 'persistent://public/default/kept';
      const open = async () => {
        const client = new Client({ serviceUrl: env.PULSAR_URL as string, operationTimeoutSeconds: 30 });
        const consumer = await client.subscribe({ topic, subscription: 'kept', subscriptionType: 'Shared' });
        return { client, consumer };
      };
      const backlog = async () => {
        const stats = await fetch(`${env.PULSAR_ADMIN_URL}/admin/v2/persistent/public/default/kept/stats`);
        const { subscriptions } = (await stats.json()) as { subscriptions: { kept: { msgBacklog: number } } };
        return subscriptions.kept.msgBacklog;
      };

      /** Grows with each state of the subscription that is on the disk. */
      const persisted = async () => {
        const stats = await fetch(`${env.PULSAR_ADMIN_URL}/admin/v2/persistent/public/default/kept/internalStats`);
        const { cursors } = (await stats.json()) as { cursors: { kept: { cursorLedgerLastEntry: number } } };
        return cursors.kept.cursorLedgerLastEntry;
      };

      const before = await open();
      const producer = await before.client.createProducer({ topic, batchingEnabled: false });
      for (const word of ['one', 'two', 'three']) await producer.send({ data: Buffer.from(word) });
      const received = [];
      while (received.length < 3) received.push(await before.consumer.receive());
      const earlier = await persisted();
      // The second only: the cursor has a hole.
      await before.consumer.acknowledge(received[1] as (typeof received)[0]);
      await until(async () => (await backlog()) === 2, { what: 'the acknowledgement' });
      await until(async () => (await persisted()) > earlier, { what: 'the acknowledgement on the disk' });
      await engine.kill();
      await before.client.close().catch(() => undefined);

      await engine.start();
      expect(engine.env).toEqual(env);
      const after = await open();
      const again = [];
      while (again.length < 2) again.push((await after.consumer.receive()).getData().toString());
      expect(again).toEqual(['one', 'three']);
      expect(await backlog()).toBe(2);
      await after.client.close();
    } finally {
      await engine.wipe();
    }
  });
});

test('a paused engine keeps its sockets and answers nobody until it is resumed', async () => {
  const engine = new Postgres({ directory });
  try {
    await engine.start();
    await withPostgres(engine, async (client) => {
      engine.pause();
      const { pid } = engine;
      let answered = false;
      const answer = client.query('SELECT 1 AS one').then(({ rows }) => {
        answered = true;
        return rows;
      });
      expect(await engine.answers({ timeoutMs: 300 })).toBe(false);
      expect(answered).toBe(false);
      engine.resume();
      expect(await answer).toEqual([{ one: 1 }]);
      expect(engine.pid).toBe(pid);
    });
  } finally {
    await engine.wipe();
  }
});

test('an engine ends with the process that started it, also when that one is killed', async () => {
  const program = `
    const { Redis } = await import(${JSON.stringify(new URL('../../../scripts/engines/index.mjs', import.meta.url).href)});
    const engine = new Redis({ directory: process.argv[1] });
    await engine.start();
    console.log(engine.pid);
    setInterval(() => {}, 1000);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  const engine = new Redis({ directory });
  expect(engine.pid).toBeDefined();
  child.kill('SIGKILL');
  await until(() => engine.pid === undefined, { what: 'the end of the engine' });
});

test('engines of the same kind run side by side', async () => {
  const engines = ['one', 'other'].map((name) => new Redis({ directory: join(directory, name) }));
  try {
    await Promise.all(engines.map((engine) => engine.start()));
    const [one, other] = engines as [Redis, Redis];
    await withRedis(one, (client) => client.set('word', 'here'));
    expect(await withRedis(other, (client) => client.get('word'))).toBeNull();
    await one.kill();
    expect(await other.answers({ timeoutMs: 1000 })).toBe(true);
  } finally {
    await Promise.all(engines.map((engine) => engine.wipe()));
  }
});
