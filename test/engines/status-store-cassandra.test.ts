import { migrateStores } from '@chatmesh/chat/scylla';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import { expect, test } from '@jest/globals';
import { statusStoreContract } from '../contract/status-store.js';
import { statusStoreHistoryContract } from '../contract/status-store-history.js';
import { newRecord, plain, updateOf } from '../contract/status-store-model.js';
import { cassandraStatusStore, dropKeyspace, scyllaConfig } from './cassandra-engine.js';

statusStoreContract('Cassandra', cassandraStatusStore);
statusStoreHistoryContract('Cassandra', cassandraStatusStore);

const NOW = Date.UTC(2026, 2, 1, 9, 30);
const DAY_S = 24 * 3600;

test('routers that write about a message at the same time find the same record afterwards: of two copies the lower position', async () => {
  const place = await cassandraStatusStore.place();
  const routers = await Promise.all([1, 2, 3].map(() => cassandraStatusStore.open(place.location)));
  try {
    const records = Array.from({ length: 50 }, (_, n) => newRecord(NOW + n));
    const copy = (record: (typeof records)[number], n: number) => ({
      ...record,
      position: `00000000-00000000000${n}`,
      acceptedAtMs: record.acceptedAtMs + 5 - n,
    });
    await Promise.all(
      routers.map(async ({ store }, n) => {
        await Promise.all([
          store.accept(records.map((record) => copy(record, n))),
          store.update(
            records.map((record) =>
              updateOf(record, {
                base: () => copy(record, n),
                deviceId: record.senderId,
                deliveredAtMs: NOW + 100 - n,
                failedAtMs: NOW + 90 + n,
                code: `code ${n}`,
              }),
            ),
          ),
        ]);
      }),
    );
    for (const { store } of routers) {
      const found = (await store.get(records.map((record) => record.serverMessageId))).map(plain);
      expect(found).toEqual(
        records.map((record) => ({
          ...copy(record, 0),
          deliveredAtMs: NOW + 98,
          failedAtMs: NOW + 90,
          code: 'code 0',
          devices: [record.senderId],
        })),
      );
    }
  } finally {
    for (const router of routers) await router.close();
    await place.remove();
  }
});

test('records and rows expire by themselves after 380 days', async () => {
  const config = scyllaConfig();
  await migrateStores(config);
  const { store, close } = await cassandraStatusStore.open(config.keyspace);
  const cassandra = await Cassandra.connect(config);
  try {
    await store.accept([newRecord(NOW)]);
    const [row] = await cassandra.read<{ left: number }>('SELECT ttl(sender_id) AS left FROM message_status', []);
    expect(row?.left).toBeGreaterThan(379.9 * DAY_S);
    expect(row?.left).toBeLessThanOrEqual(380 * DAY_S);
    const [inbox] = await cassandra.read<{ ttl: number }>(
      'SELECT default_time_to_live AS ttl FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?',
      [config.keyspace, 'inbox'],
    );
    expect(inbox?.ttl).toBe(380 * DAY_S);
  } finally {
    await close();
    await cassandra[Symbol.asyncDispose]();
    await dropKeyspace(config);
  }
});
