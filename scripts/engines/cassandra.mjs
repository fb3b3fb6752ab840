import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { JavaEngine, missingForJava } from './java.mjs';
import { ask } from './network.mjs';

/** A frame of CQL's protocol 4. @param {number} opcode @param {Buffer} [body] */
export function frame(opcode, body = Buffer.alloc(0)) {
  const head = Buffer.from([4, 0, 0, 0, opcode, 0, 0, 0, 0]);
  head.writeInt32BE(body.length, 5);
  return Buffer.concat([head, body]);
}

/** What it can do, asked for without a session; the answer has the opcode SUPPORTED. */
const OPTIONS = frame(5);
const SUPPORTED = 6;

const LOGBACK = `<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
`;

/**
 * Its idle workers look for work every ten microseconds (`SEPWorker`), some 45,000 times a second under any load, and each
 * time take a core away from whoever shares the machine. The kernel may join such waits over so many nanoseconds.
 */
const TIMER_SLACK_NS = 500_000;

/**
 * A node alone has nobody who would answer sooner, and the disk of a shared machine may stand still for three seconds: whether
 * that is too long the clients' deadlines say.
 */
const PATIENT = { read_request_timeout: '20s', write_request_timeout: '20s' };

/** Cassandra, which speaks ScyllaDB's protocol and answers a write when it is on the disk. */
export class Cassandra extends JavaEngine {
  static engineName = 'cassandra';
  static portNames = ['native', 'storage'];
  static opens = [
    ...[
      'io',
      'lang',
      'lang.module',
      'lang.reflect',
      'net',
      'nio',
      'util',
      'util.concurrent',
      'util.concurrent.atomic',
    ].map((name) => `java.base/java.${name}`),
    ...['loader', 'math', 'misc', 'module', 'ref', 'reflect', 'util.jar'].map(
      (name) => `java.base/jdk.internal.${name}`,
    ),
    'java.base/sun.nio.ch',
    'java.management/com.sun.jmx.remote.security',
    'java.management.rmi/com.sun.jmx.remote.internal.rmi',
    ...['registry', 'server', 'transport', 'transport.tcp'].map((name) => `java.rmi/sun.rmi.${name}`),
    'java.sql/java.sql',
    'jdk.management/com.sun.management.internal',
  ];

  /** @override @returns {string[]} */
  static missing() {
    return missingForJava('cassandra');
  }

  /** @override @returns {Record<string, string>} */
  get env() {
    return {
      SCYLLA_CONTACT_POINTS: `${this.host}:${this.ports.native}`,
      SCYLLA_LOCAL_DATACENTER: 'datacenter1',
    };
  }

  /** @override @param {{ timeoutMs: number }} options */
  async answers(options) {
    const reply = await ask(this.host, Number(this.ports.native), [OPTIONS], options);
    return reply[4] === SUPPORTED;
  }

  /** @override @protected */
  async command() {
    const { command, args } = await super.command();
    // What a process sets for itself stays over exec; elsewhere than on Linux there is nothing to set.
    const patiently = `{ echo ${TIMER_SLACK_NS} > /proc/self/timerslack_ns; } 2> /dev/null; exec "$0" "$@"`;
    return { command: '/bin/sh', args: ['-c', patiently, command, ...args] };
  }

  /** Settings of cassandra.yaml on top of those that every node has. @protected @returns {Record<string, unknown>} */
  settings() {
    return { ...PATIENT, num_tokens: 1, seed_provider: seedProvider([this.host], this.ports) };
  }

  /** @override @protected */
  javaArguments() {
    const conf = join(this.directory, 'conf');
    mkdirSync(conf, { recursive: true });
    const folders = Object.fromEntries(
      ['commitlog', 'saved_caches', 'hints', 'cdc_raw'].map((name) => [
        `${name}_directory`,
        join(this.directory, name),
      ]),
    );
    const settings = {
      cluster_name: 'chatmesh',
      partitioner: 'org.apache.cassandra.dht.Murmur3Partitioner',
      endpoint_snitch: 'SimpleSnitch',
      listen_address: this.host,
      rpc_address: this.host,
      native_transport_port: this.ports.native,
      storage_port: this.ports.storage,
      data_file_directories: [join(this.directory, 'data')],
      ...folders,
      commitlog_sync: 'batch',
      auto_snapshot: false,
      ...this.settings(),
    };
    // JSON is YAML.
    writeFileSync(join(conf, 'cassandra.yaml'), JSON.stringify(settings, null, 2));
    writeFileSync(join(conf, 'logback.xml'), LOGBACK);
    return [
      // All of it from the beginning, and a small young generation: a heap that grows is collected as a whole each time,
      // which takes 200 ms, and what a large young one holds is mostly in use.
      '-Xms768m',
      '-Xmx768m',
      '-Xmn80m',
      '-XX:MaxTenuringThreshold=1',
      // Java 18 and newer would refuse it otherwise.
      '-Djava.security.manager=allow',
      '-Djdk.attach.allowAttachSelf=true',
      `-Dlogback.configurationFile=${pathToFileURL(join(conf, 'logback.xml'))}`,
      `-Dcassandra.config=${pathToFileURL(join(conf, 'cassandra.yaml'))}`,
      `-Dcassandra.storagedir=${this.directory}`,
      '-Dcassandra-foreground=yes',
      // Each of these is a wait, or a computation of seconds, that one machine does not need.
      '-Dcassandra.skip_wait_for_gossip_to_settle=0',
      '-Dcassandra.ring_delay_ms=100',
      '-Dcassandra.superuser_setup_delay_ms=0',
      '-Dcassandra.shutdown_announce_in_ms=0',
      '-Dcassandra.memtable_row_overhead_computation_step=1000',
      'org.apache.cassandra.service.CassandraDaemon',
    ];
  }
}

/**
 * @param {string[]} hosts
 * @param {Record<string, number>} ports those of every node
 */
export const seedProvider = (hosts, ports) => [
  {
    class_name: 'org.apache.cassandra.locator.SimpleSeedProvider',
    parameters: [{ seeds: hosts.map((host) => `${host}:${ports.storage}`).join(',') }],
  },
];
