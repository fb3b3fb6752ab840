import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';

const MIGRATE = fileURLToPath(new URL('../../../services/dist/migrate.js', import.meta.url));

/** The variables of a mesh that has a namespace and a keyspace of its own on the Pulsar and the Cassandra of these tests. */
export function logAndStoresEnv(name: string, partitions: number) {
  const { PULSAR_URL, PULSAR_ADMIN_URL, SCYLLA_CONTACT_POINTS, SCYLLA_LOCAL_DATACENTER } = process.env;
  return {
    PULSAR_URL: PULSAR_URL ?? '',
    PULSAR_ADMIN_URL: PULSAR_ADMIN_URL ?? '',
    PULSAR_NAMESPACE: `chatmesh/${name}`,
    PULSAR_PARTITIONS: String(partitions),
    SCYLLA_CONTACT_POINTS: SCYLLA_CONTACT_POINTS ?? '',
    SCYLLA_LOCAL_DATACENTER: SCYLLA_LOCAL_DATACENTER ?? '',
    SCYLLA_KEYSPACE: name,
    SCYLLA_REPLICATION_FACTOR: '1',
    CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
  };
}

/** Prepares the engines that these variables name, as an operator does. @throws with what it has printed when it fails. */
export function migrate(env: NodeJS.ProcessEnv): void {
  execFileSync(process.execPath, [MIGRATE], { env: { PATH: process.env.PATH, ...env } });
}
