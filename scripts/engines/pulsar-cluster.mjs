import { execFile } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { JavaEngine, properties } from './java.mjs';
import { accepts, ask } from './network.mjs';
import { BOOKIE, BROKER, MEMORY, Pulsar } from './pulsar.mjs';

const BOOKIES = 3;
const CLUSTER = 'chatmesh';
/** How long ZooKeeper holds on to what a dead process had registered. */
const SESSION_MS = 5_000;
/** Pulsar's own access to BookKeeper's metadata, which the broker uses, too. */
const DRIVERS = ['bookie', 'client'].map((side) => {
  const driver = side === 'bookie' ? 'PulsarMetadataBookieDriver' : 'PulsarMetadataClientDriver';
  return `-Dbookkeeper.metadata.${side}.drivers=org.apache.pulsar.metadata.bookkeeper.${driver}`;
});

/** The metadata of the cluster, flushed before it answers. */
class ZooKeeper extends JavaEngine {
  static engineName = 'zookeeper';
  static portNames = ['client'];
  static model = Pulsar;

  get address() {
    return `${this.host}:${this.ports.client}`;
  }

  /** @override @param {{ timeoutMs: number }} options */
  async answers(options) {
    return (await ask(this.host, Number(this.ports.client), ['srvr'], options))
      .toString()
      .startsWith('Zookeeper version');
  }

  /** @override @protected */
  javaArguments() {
    const settings = {
      dataDir: join(this.directory, 'data'),
      clientPort: this.ports.client,
      clientPortAddress: this.host,
      tickTime: 500,
      'admin.enableServer': false,
    };
    const file = join(this.directory, 'zookeeper.conf');
    writeFileSync(file, properties(settings));
    return ['-Xmx128m', 'org.apache.zookeeper.server.ZooKeeperServerMain', file];
  }

  /** Writes what a new cluster starts with, once. @param {Record<string, string>} addresses of its broker */
  async initialise({ PULSAR_URL = '', PULSAR_ADMIN_URL = '' }) {
    const stamp = join(this.directory, 'initialised');
    if (existsSync(stamp)) return;
    const store = `zk:${this.address}`;
    const { command, args } = await this.java([
      '-Xmx128m',
      ...DRIVERS,
      'org.apache.pulsar.PulsarClusterMetadataSetup',
      ...['--cluster', CLUSTER, '--metadata-store', store, '--configuration-metadata-store', store],
      ...['--web-service-url', PULSAR_ADMIN_URL, '--broker-service-url', PULSAR_URL],
    ]);
    await promisify(execFile)(command, args, { cwd: this.directory, maxBuffer: 2 ** 26 });
    writeFileSync(stamp, '');
  }
}

class Bookie extends JavaEngine {
  static engineName = 'bookie';
  static portNames = ['bookie'];
  static model = Pulsar;
  #metadata;

  /** @param {import('./engine.mjs').EngineOptions & { metadata: ZooKeeper }} options */
  constructor(options) {
    super(options);
    this.#metadata = options.metadata;
  }

  /** @override It takes connections when it has read its journal. */
  async answers() {
    return accepts(this.host, Number(this.ports.bookie));
  }

  /** @override @protected */
  javaArguments() {
    const file = join(this.directory, 'bookie.conf');
    const settings = {
      bookiePort: this.ports.bookie,
      advertisedAddress: this.host,
      journalDirectories: join(this.directory, 'journal'),
      ledgerDirectories: join(this.directory, 'ledgers'),
      metadataServiceUri: `metadata-store:zk:${this.#metadata.address}`,
      zkTimeout: SESSION_MS,
      ...BOOKIE,
    };
    writeFileSync(file, properties(settings));
    return [...MEMORY, ...DRIVERS, 'org.apache.bookkeeper.server.Main', '--conf', file];
  }
}

class Broker extends Pulsar {
  /** @override */
  static engineName = 'broker';
  /** @override */
  static portNames = ['broker', 'admin'];
  static model = Pulsar;
  #metadata;

  /** @param {import('./engine.mjs').EngineOptions & { metadata: ZooKeeper }} options */
  constructor(options) {
    super(options);
    this.#metadata = options.metadata;
  }

  /** @override @protected */
  javaArguments() {
    const file = join(this.directory, 'broker.conf');
    const settings = {
      clusterName: CLUSTER,
      bindAddress: this.host,
      advertisedAddress: this.host,
      brokerServicePort: this.ports.broker,
      webServicePort: this.ports.admin,
      metadataStoreUrl: `zk:${this.#metadata.address}`,
      configurationMetadataStoreUrl: `zk:${this.#metadata.address}`,
      metadataStoreSessionTimeoutMillis: SESSION_MS,
      managedLedgerDefaultEnsembleSize: BOOKIES,
      managedLedgerDefaultWriteQuorum: BOOKIES,
      managedLedgerDefaultAckQuorum: BOOKIES - 1,
      // There is no fourth bookie to take the place of one that dies, so writing goes on with the two that are left.
      bookkeeper_delayEnsembleChange: true,
      ...BROKER,
    };
    writeFileSync(file, properties(settings));
    return [...MEMORY, ...DRIVERS, 'org.apache.pulsar.PulsarBrokerStarter', '--broker-conf', file];
  }
}

/**
 * A broker on three bookies, each in a process of its own: every entry goes to three and is confirmed by two. One bookie may
 * be dead; topics that are opened meanwhile wait for it, since a new ledger asks for three.
 */
export class PulsarCluster {
  #directory;
  /** @readonly */
  zookeeper;
  /** @type {readonly JavaEngine[]} @readonly */
  bookies;
  /** @type {Pulsar} @readonly */
  broker;

  /** @param {{ directory: string }} options for the data and logs of all processes */
  constructor({ directory }) {
    this.#directory = directory;
    const metadata = new ZooKeeper({ directory: join(directory, 'zookeeper') });
    this.zookeeper = /** @type {JavaEngine} */ (metadata);
    this.bookies = Array.from(
      { length: BOOKIES },
      (_, i) => new Bookie({ directory: join(directory, `bookie-${i + 1}`), metadata }),
    );
    this.broker = new Broker({ directory: join(directory, 'broker'), metadata });
    this.#metadata = metadata;
  }
  #metadata;

  /** The variables that point a mesh at it. @returns {Record<string, string>} */
  get env() {
    return this.broker.env;
  }

  /** Starts what does not run and waits until the broker takes topics. */
  async start() {
    await this.#metadata.start();
    await this.broker.choosePorts();
    await this.#metadata.initialise(this.env);
    await Promise.all([...this.bookies, this.broker].map((engine) => engine.start()));
  }

  /** Ends all of it and deletes the data. */
  async wipe() {
    await Promise.all([this.broker, ...this.bookies, this.zookeeper].map((engine) => engine.wipe()));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
