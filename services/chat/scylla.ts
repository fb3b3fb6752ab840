// What routers keep in ScyllaDB or Cassandra: loaded when it is configured.
export { CassandraInboxStore } from './stores/cassandra-inbox-store.js';
export { checkSchema, migrateStores } from './stores/cassandra-schema.js';
export { CassandraStatusStore } from './stores/cassandra-status-store.js';
