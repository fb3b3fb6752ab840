import { writeFileSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { JavaEngine, missingForJava, properties } from './java.mjs';

/** The name of the loopback interface: `lo`, or `lo0`. */
function loopback() {
  const all = Object.entries(networkInterfaces());
  return all.find(([, addresses]) => addresses?.some(({ internal }) => internal))?.[0] ?? 'lo';
}

/** A broker with its bookie and its metadata in one process. */
export class Pulsar extends JavaEngine {
  static engineName = 'pulsar';
  static portNames = ['broker', 'admin', 'bookie'];
  static opens = [
    ...['lang', 'nio', 'util.zip'].map((name) => `java.base/java.${name}`),
    ...['misc', 'platform'].map((name) => `java.base/jdk.internal.${name}`),
    'java.base/sun.net',
    'java.management/sun.management',
  ];

  /** @override @returns {string[]} */
  static missing() {
    return missingForJava('pulsar');
  }

  /** @override @returns {Record<string, string>} */
  get env() {
    return {
      PULSAR_URL: `pulsar://${this.host}:${this.ports.broker}`,
      PULSAR_ADMIN_URL: `http://${this.host}:${this.ports.admin}`,
    };
  }

  /** @override @param {{ timeoutMs: number }} options */
  async answers({ timeoutMs }) {
    // Finding the owner of a topic needs its namespace and a broker that takes topics.
    try {
      const { status } = await fetch(`${this.env.PULSAR_ADMIN_URL}/lookup/v2/topic/persistent/public/default/ready`, {
        signal: AbortSignal.timeout(timeoutMs),
        headers: { connection: 'close' },
      });
      return status === 200;
    } catch {
      return false;
    }
  }

  /** Settings of standalone.conf: the broker's and the bookie's. @protected @returns {Record<string, unknown>} */
  settings() {
    return {
      clusterName: 'standalone',
      bindAddress: this.host,
      advertisedAddress: this.host,
      brokerServicePort: this.ports.broker,
      webServicePort: this.ports.admin,
      managedLedgerDefaultEnsembleSize: 1,
      managedLedgerDefaultWriteQuorum: 1,
      managedLedgerDefaultAckQuorum: 1,
      ...BROKER,
      // The bookie: with this, and only with this, its port is the one of the command line.
      allowEphemeralPorts: true,
      ...BOOKIE,
    };
  }

  /** @override @protected */
  javaArguments() {
    const file = join(this.directory, 'standalone.conf');
    writeFileSync(file, properties(this.settings()));
    return [
      ...MEMORY,
      'org.apache.pulsar.PulsarStandaloneStarter',
      ...['--config', file],
      ...['--metadata-dir', join(this.directory, 'metadata')],
      ...['--bookkeeper-dir', join(this.directory, 'bookkeeper')],
      ...['--bookkeeper-port', String(this.ports.bookie)],
      '--no-functions-worker',
      '--no-stream-storage',
    ];
  }
}

export const MEMORY = [
  '-Xms128m',
  '-Xmx640m',
  '-XX:MaxDirectMemorySize=384m',
  '-Dio.netty.tryReflectionSetAccessible=true',
];

/** What the mesh needs of a broker. */
export const BROKER = {
  acknowledgmentAtBatchIndexLevelEnabled: true,
  // 0 is no limit: an acknowledgement is written when it comes, not with the next one a second later.
  managedLedgerDefaultMarkDeleteRateLimit: 0,
  managedLedgerCursorPositionFlushSeconds: 1,
  // A consumer that has stopped without a word is noticed after twice that.
  keepAliveIntervalSeconds: 5,
  // The next owner of a partition waits by itself until the former one must have stopped.
  activeConsumerFailoverDelayTimeMillis: 0,
  brokerDeleteInactiveTopicsEnabled: false,
  loadBalancerEnabled: false,
  webSocketServiceEnabled: false,
  // Room for a message of 5 MiB, the default limit, with what goes around it.
  nettyMaxFrameSizeBytes: 5 * 1024 * 1024 + 10 * 1024,
};

/** A bookie that answers when it has flushed, and starts fast. */
export const BOOKIE = {
  listeningInterface: loopback(),
  allowLoopback: true,
  journalSyncData: true,
  journalFlushWhenQueueEmpty: true,
  journalMaxSizeMB: 64,
  journalPreAllocSizeMB: 4,
  ledgerStorageClass: 'org.apache.bookkeeper.bookie.storage.ldb.DbLedgerStorage',
};
