import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Cassandra, frame, seedProvider } from './cassandra.mjs';
import { properties } from './java.mjs';
import { ask, freePort } from './network.mjs';

const HOSTS = ['127.0.0.1', '127.0.0.2', '127.0.0.3'];

/** A string after its length. @param {string} text @param {2 | 4} lengthBytes */
function counted(text, lengthBytes) {
  const length = Buffer.alloc(lengthBytes);
  length.writeUIntBE(text.length, 0, lengthBytes);
  return Buffer.concat([length, Buffer.from(text)]);
}

/** Opens a session. */
const STARTUP = frame(1, Buffer.concat([Buffer.from([0, 1]), counted('CQL_VERSION', 2), counted('3.0.0', 2)]));
/** How many others a node has met and knows the schema of, read with consistency ONE; the number is the last eight bytes of the answer. */
const PEERS = frame(
  7,
  Buffer.concat([counted('SELECT COUNT(schema_version) FROM system.peers', 4), Buffer.from([0, 1, 0])]),
);
const RESULT = 8;

/** One of three, with a third of the ring and a rack of its own. */
class CassandraNode extends Cassandra {
  /** As the mesh's SCYLLA_RACK would name it. */
  get rack() {
    return `rack${HOSTS.indexOf(this.host) + 1}`;
  }

  /** @override One that has not met the others yet would create a keyspace that they do not know. @param {{ timeoutMs: number }} options */
  async answers(options) {
    const reply = await ask(this.host, Number(this.ports.native), [STARTUP, PEERS], options);
    return reply[4] === RESULT && reply.readBigInt64BE(reply.length - 8) === BigInt(HOSTS.length - 1);
  }

  /** @override @protected */
  settings() {
    const token = -(2n ** 63n) + BigInt(HOSTS.indexOf(this.host)) * (2n ** 64n / BigInt(HOSTS.length));
    return {
      num_tokens: 1,
      initial_token: String(token),
      // All are seeds and none streams from another, so they may start in any order, and together.
      seed_provider: seedProvider(HOSTS, this.ports),
      auto_bootstrap: false,
      endpoint_snitch: 'GossipingPropertyFileSnitch',
    };
  }

  /** @override @protected */
  javaArguments() {
    const file = join(this.directory, 'cassandra-rackdc.properties');
    writeFileSync(file, properties({ dc: this.env.SCYLLA_LOCAL_DATACENTER, rack: this.rack }));
    return [`-Dcassandra-rackdc.properties=${pathToFileURL(file)}`, ...super.javaArguments()];
  }
}

/** Three Cassandra nodes on three addresses of the loopback, each in a rack of its own; a keyspace may have three replicas. */
export class CassandraCluster {
  #directory;
  /** @type {CassandraNode[]} */
  #nodes = [];

  /** @param {{ directory: string }} options for the data and logs of all nodes */
  constructor({ directory }) {
    this.#directory = directory;
  }

  /** The three nodes, each to be killed, paused and started again. @returns {readonly CassandraNode[]} @throws before its first start */
  get nodes() {
    return this.#nodes;
  }

  /** The variables that point a mesh at all three. @returns {Record<string, string>} */
  get env() {
    const contactPoints = this.#nodes.map(({ env }) => env.SCYLLA_CONTACT_POINTS).join(',');
    return { ...this.#nodes[0]?.env, SCYLLA_CONTACT_POINTS: contactPoints };
  }

  /** Starts the nodes and waits until each has met the others. That one is back may take the others some seconds to notice. */
  async start() {
    if (this.#nodes.length === 0) {
      // A driver expects all nodes of a cluster on the same port.
      const ports = { native: await freePort(HOSTS), storage: await freePort(HOSTS) };
      this.#nodes = HOSTS.map((host) => new CassandraNode({ directory: join(this.#directory, host), host, ports }));
    }
    await Promise.all(this.#nodes.map((node) => node.start()));
  }

  /** Ends all nodes and deletes their data. */
  async wipe() {
    await Promise.all(this.#nodes.map((node) => node.wipe()));
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
