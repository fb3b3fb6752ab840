import { randomUUID } from 'node:crypto';
import type { InboxStore, ScyllaConfig, StatusStore } from '@chatmesh/chat';
import { CassandraInboxStore, CassandraStatusStore, migrateStores } from '@chatmesh/chat/scylla';
import { Cassandra } from '@chatmesh/mesh/cassandra';
import type { Engine } from '../contract/engine.js';

/** A keyspace of its own on the cluster that SCYLLA_CONTACT_POINTS names. */
export function scyllaConfig(keyspace = `test_${randomUUID().replaceAll('-', '')}`): ScyllaConfig {
  const { SCYLLA_CONTACT_POINTS, SCYLLA_LOCAL_DATACENTER } = process.env;
  if (!SCYLLA_CONTACT_POINTS || !SCYLLA_LOCAL_DATACENTER)
    throw new Error('SCYLLA_CONTACT_POINTS and SCYLLA_LOCAL_DATACENTER have to name the Cassandra of these tests');
  return {
    contactPoints: SCYLLA_CONTACT_POINTS.split(','),
    localDatacenter: SCYLLA_LOCAL_DATACENTER,
    keyspace,
    username: process.env.SCYLLA_USERNAME,
    password: process.env.SCYLLA_PASSWORD,
    tlsCaFile: process.env.SCYLLA_TLS_CA,
    rack: undefined,
    replicationFactor: 1,
    // One node that shares two cores with the test may pause for longer than a cluster would.
    readDeadlineMs: 20_000,
    writeDeadlineMs: 20_000,
  };
}

export async function dropKeyspace(config: ScyllaConfig): Promise<void> {
  const cassandra = await Cassandra.connect({ ...config, keyspace: '' });
  try {
    await cassandra.define([`DROP KEYSPACE IF EXISTS ${config.keyspace}`]);
  } finally {
    await cassandra[Symbol.asyncDispose]();
  }
}

function engine<T extends AsyncDisposable>(exported: string, make: (cassandra: Cassandra) => T): Engine<T> {
  return {
    module: import.meta.url,
    exported,
    async open(location) {
      const cassandra = await Cassandra.connect(scyllaConfig(location));
      const store = make(cassandra);
      return {
        store,
        async close() {
          await store[Symbol.asyncDispose]();
          await cassandra[Symbol.asyncDispose]();
        },
      };
    },
    async place() {
      const config = scyllaConfig();
      await migrateStores(config);
      return { location: config.keyspace, remove: () => dropKeyspace(config) };
    },
  };
}

export const cassandraStatusStore: Engine<StatusStore> = engine(
  'cassandraStatusStore',
  (cassandra) => new CassandraStatusStore(cassandra),
);
export const cassandraInboxStore: Engine<InboxStore> = engine(
  'cassandraInboxStore',
  (cassandra) => new CassandraInboxStore(cassandra),
);
