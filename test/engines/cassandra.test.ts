import { ChatService, readConfig, type ScyllaConfig } from '@chatmesh/chat';
import { CassandraInboxStore, CassandraStatusStore, checkSchema, migrateStores } from '@chatmesh/chat/scylla';
import { createLogger, EnvReader, MeshError, Metrics } from '@chatmesh/mesh';
import { Cassandra, inParallel } from '@chatmesh/mesh/cassandra';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { until } from '../contract/engine.js';
import { newRecord, plain } from '../contract/status-store-model.js';
import { CuttableWire } from '../cuttable-wire.js';
import { dropKeyspace, scyllaConfig } from './cassandra-engine.js';
import { failure } from './failure.js';

const NOW = Date.now();
/** Of a request, milliseconds; the engine's own are longer, since it shares two cores with the test. */
const DEADLINES = { readDeadlineMs: 1_500, writeDeadlineMs: 2_000 };

describe('a session with Cassandra', () => {
  let config: ScyllaConfig;

  beforeEach(() => {
    config = scyllaConfig();
  });

  afterEach(() => dropKeyspace(config));

  async function using<T>(config: ScyllaConfig, work: (cassandra: Cassandra) => Promise<T>): Promise<T> {
    const cassandra = await Cassandra.connect(config);
    try {
      return await work(cassandra);
    } finally {
      await cassandra[Symbol.asyncDispose]();
    }
  }

  describe('tells the operator in a sentence', () => {
    test('that nothing was prepared, or not by this version', async () => {
      const missing = await failure(Cassandra.connect(config));
      expect(missing.kind).toBe('failed_precondition');
      expect(missing.message).toBe(`there is no keyspace ${config.keyspace}: run \`npx chatmesh migrate\``);

      await Cassandra.createKeyspace(config, 1);
      await using(config, async (cassandra) => {
        const older = await failure(checkSchema(cassandra));
        expect(older.kind).toBe('failed_precondition');
        expect(older.message).toMatch(/is at version 0 and this program needs \d+: run `npx chatmesh migrate`$/);
        await migrateStores(config);
        await checkSchema(cassandra);
        await cassandra.write({
          cql: `INSERT INTO schema_versions (service, version, name) VALUES ('chat', 9999, 'of the future')`,
          params: [],
        });
        const newer = await failure(checkSchema(cassandra));
        expect(newer.kind).toBe('failed_precondition');
        expect(newer.message).toMatch(/is at version 9999 and this program knows \d+: .*`npx chatmesh migrate`/);
        expect((await failure(migrateStores(config))).message).toBe(newer.message);
      });
    });

    test('that there are not so many nodes, or no such data center', async () => {
      const few = await failure(migrateStores({ ...config, replicationFactor: 3 }));
      expect(few.kind).toBe('failed_precondition');
      expect(few.message).toMatch(/^SCYLLA_REPLICATION_FACTOR=3 is more than the nodes of data center .* \(1\)/);
      const nowhere = await failure(migrateStores({ ...config, localDatacenter: 'nowhere' }));
      expect(nowhere.kind).toBe('failed_precondition');
      expect(nowhere.message).toMatch(/has no data center "nowhere": set SCYLLA_LOCAL_DATACENTER/);
    });

    test('that a CA file cannot be read', async () => {
      const error = await failure(Cassandra.connect({ ...config, tlsCaFile: '/nowhere/ca.pem' }));
      expect(error.kind).toBe('failed_precondition');
      expect(error.message).toMatch(/^SCYLLA_TLS_CA=\S+ cannot be read: /);
    });
  });

  test('a migration may be run again, also by several at once', async () => {
    const done = await Promise.all([migrateStores(config), migrateStores(config), migrateStores(config)]);
    expect(done.some((said) => said.startsWith('applied 0001_'))).toBe(true);
    expect(await migrateStores(config)).toBe('is up to date');
    await using(config, async (cassandra) => {
      const store = new CassandraStatusStore(cassandra);
      const record = newRecord(NOW);
      await store.accept([record]);
      expect(plain((await store.get([record.serverMessageId]))[0])).toEqual(record);
    });
  });

  test('with a rack asks its nodes as well as others', async () => {
    await migrateStores(config);
    for (const rack of ['rack1', 'another']) {
      await using({ ...config, rack }, async (cassandra) => {
        const store = new CassandraStatusStore(cassandra);
        const records = Array.from({ length: 100 }, (_, n) => newRecord(NOW + n));
        await store.accept(records);
        expect((await store.get(records.map((record) => record.serverMessageId))).map(plain)).toEqual(records);
      });
    }
  });

  describe('through an outage', () => {
    let wire: CuttableWire;

    beforeEach(async () => {
      await migrateStores(config);
      wire = await CuttableWire.to(Number(new URL(`tcp://${config.contactPoints[0]}`).port));
    });

    afterEach(() => wire[Symbol.asyncDispose]());

    for (const how of ['refuse', 'cut'] as const) {
      test(`calls end as unavailable within their deadline and work again afterwards (${how})`, async () => {
        await using({ ...config, ...DEADLINES, contactPoints: [`127.0.0.1:${wire.port}`] }, async (cassandra) => {
          const statuses = new CassandraStatusStore(cassandra);
          const inbox = new CassandraInboxStore(cassandra);
          const [known, next] = [newRecord(NOW), newRecord(NOW)];
          const { recipientId, serverMessageId } = known;
          const row = { userId: recipientId, deviceId: serverMessageId, position: '01', payload: Buffer.from('x') };
          await statuses.accept([known]);
          await inbox.append([row], NOW);
          wire[how]();
          const many = Array.from({ length: 5_000 }, (_, n) => newRecord(NOW + n));
          for (const call of [
            () => statuses.accept([next]),
            () => statuses.accept(many),
            () => statuses.get([serverMessageId]),
            () => inbox.append([{ ...row, position: '02' }], NOW),
            () => inbox.page(row.userId, row.deviceId, undefined, 10),
            () => inbox.remove(row.userId, row.deviceId, ['01']),
          ]) {
            const begun = performance.now();
            expect((await failure(call())).kind).toBe('unavailable');
            expect(performance.now() - begun).toBeLessThan(DEADLINES.writeDeadlineMs + 1_000);
          }
          wire.mend();
          let back = false;
          const ask = async () => {
            while (!back) {
              // Without a host the driver refuses at once: timers have to get their turn.
              await new Promise((resolve) => setImmediate(resolve));
              back = await statuses.accept([next]).then(
                () => true,
                (error) => {
                  if (error.kind !== 'unavailable') throw error;
                  return false;
                },
              );
            }
          };
          await Promise.all([ask(), until(() => back, 'Cassandra was back', 60_000)]);
          expect((await statuses.get([serverMessageId, next.serverMessageId])).map(plain)).toEqual([known, next]);
          await inbox.append([{ ...row, position: '03' }], NOW);
          expect((await inbox.page(row.userId, row.deviceId, undefined, 10)).map(({ position }) => position)).toEqual(
            expect.arrayContaining(['01', '03']),
          );
        });
      });
    }

    test('the service waits for Cassandra at its start, and stops when it is told to', async () => {
      wire.refuse();
      const env = new EnvReader({
        SCYLLA_CONTACT_POINTS: `127.0.0.1:${wire.port}`,
        SCYLLA_LOCAL_DATACENTER: config.localDatacenter,
        SCYLLA_KEYSPACE: config.keyspace,
        CHAT_FINGERPRINT_KEY: '00'.repeat(32),
        CHAT_PORT: '0',
      });
      const lines: { msg: string }[] = [];
      const logger = createLogger({
        name: 'test',
        destination: { write: (line) => void lines.push(JSON.parse(line)) },
      });
      const deps = { logger, metrics: new Metrics({ processMetrics: false }) };
      const chatConfig = readConfig(env);
      env.finish();
      const empty = { publish: async () => [], writable: true } as never;
      const service = await ChatService.create(chatConfig, deps, { log: empty, deadLetters: empty });
      const starting = failure(service.start());
      await until(
        () => lines.filter(({ msg }) => msg.startsWith('ScyllaDB does not answer yet')).length > 1,
        'it retried',
      );
      expect(service.ready).toBe(false);
      await service.drain(1_000);
      expect((await starting).kind).toBe('cancelled');
      await service[Symbol.asyncDispose]();
    });
  });

  test('after a failure, no more of a long list is begun', async () => {
    let begun = 0;
    const work = inParallel(Array.from({ length: 10_000 }), async () => {
      if (++begun === 300) throw new MeshError('unavailable', 'enough');
      await new Promise((resolve) => setImmediate(resolve));
    });
    await failure(work);
    expect(begun).toBeLessThan(1_000);
  });
});
