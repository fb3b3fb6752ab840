// Real engines to develop and test with: Cassandra, Pulsar, Redis, PostgreSQL.
import { Cassandra } from './cassandra.mjs';
import { Postgres } from './postgres.mjs';
import { Pulsar } from './pulsar.mjs';
import { Redis } from './redis.mjs';

export { CassandraCluster } from './cassandra-cluster.mjs';
export { Engine } from './engine.mjs';
export { enginesHome } from './java.mjs';
export { freePorts } from './network.mjs';
export { PulsarCluster } from './pulsar-cluster.mjs';
export { Cassandra, Postgres, Pulsar, Redis };

/** All of them, by name. */
export const ENGINES = { cassandra: Cassandra, pulsar: Pulsar, redis: Redis, postgres: Postgres };

/**
 * What is missing on this machine to run some engines.
 *
 * @param {(keyof typeof ENGINES)[]} names
 * @returns {string[]} sentences that say what to install
 */
export function missingFor(names) {
  return [...new Set(names.flatMap((name) => ENGINES[name].missing()))];
}
