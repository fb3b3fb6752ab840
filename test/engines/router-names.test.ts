import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger } from '@chatmesh/mesh';
import { History } from '@chatmesh/sdk/testing';
import { afterAll, beforeAll, describe, test } from '@jest/globals';
import { freePorts } from '#engines';
import { MeshProcess, type ServiceName, type TestUser, until } from '../mesh.js';
import { judge, Speaker } from '../speaker.js';
import { dropKeyspace, scyllaConfig } from './cassandra-engine.js';
import { logAndStoresEnv, migrate } from './engines-env.js';

/** As the pods of a headless service: one name, one port, an address for each. */
const FIRST = '127.0.0.2';
const SECOND = '127.0.0.3';
/** So many that each router has some. */
const USERS = 16;
/** Messages that have to flow after each change. */
const ENOUGH = 50;
const PAUSE_MS = 50;
const KEPT = 'cannot be looked up; keeping those known';

describe('an edge that finds its routers by a name', () => {
  const name = `named_${randomBytes(6).toString('hex')}`;
  const scylla = scyllaConfig(name);
  const directory = mkdtempSync(join(tmpdir(), 'chatmesh-names-'));
  const hosts = join(directory, 'hosts');
  const switches = join(directory, 'nsswitch.conf');
  const processes: MeshProcess[] = [];
  let edge: MeshProcess;
  let first: MeshProcess;
  let second: MeshProcess;
  let users: TestUser[];
  let speakers: Speaker[] = [];
  let url: string;

  /** What the name stands for from now on. */
  const resolvesTo = (...addresses: string[]) =>
    writeFileSync(hosts, ['127.0.0.1 localhost', ...addresses.map((address) => `${address} routers`), ''].join('\n'));

  const metric = async (process: MeshProcess, sample: string) => {
    const text = await (await fetch(`http://127.0.0.1:${process.adminPort}/metrics`)).text();
    return Number(text.split(`\n${sample} `)[1]?.split('\n')[0] ?? Number.NaN);
  };
  const reaches = async (connected: number, unreachable: number) => {
    await until(
      async () =>
        (await metric(edge, 'chatmesh_routers{state="connected"}')) === connected &&
        (await metric(edge, 'chatmesh_routers{state="unreachable"}')) === unreachable,
      { what: `${connected} routers that answer and ${unreachable} that do not` },
    );
  };
  /** How often the edge has said something. */
  const said = (text: string) => edge.output.split(text).length - 1;
  const says = (text: string, times: number) => until(() => said(text) >= times, { what: `${text}, ${times} times` });

  beforeAll(async () => {
    const own = ['127.0.0.1', FIRST, SECOND];
    const ports = (await freePorts(9, own)).map(String);
    const [edgePort, h2Port, chatPort, userPort, presencePort, ...adminPorts] = ports;
    const env = {
      PATH: process.env.PATH,
      ...logAndStoresEnv(name, 8),
      REDIS_URL: process.env.REDIS_URL,
      REDIS_PREFIX: `${name}:`,
      SEND_RATE: '0',
      EDGE_HOST: '127.0.0.1',
      EDGE_PORT: edgePort,
      EDGE_H2_PORT: h2Port,
      CHAT_PORT: chatPort,
      USER_ADDRESS: `127.0.0.1:${userPort}`,
      USER_PORT: userPort,
      PRESENCE_ADDRESS: `127.0.0.1:${presencePort}`,
      PRESENCE_PORT: presencePort,
    };
    const prepare = (services: readonly ServiceName[], more: NodeJS.ProcessEnv = {}, within: string[] = []) => {
      const dataDir = join(directory, `data-${processes.length}`);
      const adminPort = Number(adminPorts[processes.length]);
      const made = new MeshProcess(services, adminPort, { ...env, DATA_DIR: dataDir, ...more }, within);
      processes.push(made);
      return made;
    };
    migrate(env);
    const others = prepare(['user', 'presence']);
    first = prepare(['chat'], { MESH_HOST: FIRST });
    second = prepare(['chat'], { MESH_HOST: SECOND });
    // The edge alone sees these hosts, and asks no server for others.
    const namespaces = process.getuid?.() === 0 ? '-m' : '-Urm';
    const mount = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"';
    writeFileSync(switches, 'hosts: files\n');
    resolvesTo(FIRST, SECOND);
    edge = prepare(['edge'], { CHAT_ADDRESSES: `dns:///routers:${chatPort}` }, [
      ...['unshare', namespaces, 'sh', '-c', mount, hosts, switches],
    ]);
    await Promise.all([others, first, second, edge].map((process) => process.start())).catch((error) => {
      if (!/^(unshare|mount): |ENOENT/m.test(edge.output)) throw error;
      throw new Error(
        `this test gives a process names of its own: it needs Linux, unshare and mount (on Debian: apt-get install -y util-linux mount), and the right to use them, as root or in a user namespace (${edge.output})`,
      );
    });
    url = `ws://127.0.0.1:${edgePort}/connect`;
    const logger = createLogger({ name: 'test', level: 'silent' });
    const client = createClient(DirectoryService, { address: `127.0.0.1:${userPort}`, logger });
    ({ users } = await client.createUsers({ contactNumber: '+15550000000', name: 'Test', count: USERS }));
    client.close();
  }, 120_000);
  afterAll(async () => {
    await Promise.all(speakers.map((speaker) => speaker.close()));
    await Promise.all(processes.map((process) => process.end('SIGKILL')));
    await dropKeyspace(scylla);
    rmSync(directory, { recursive: true, force: true });
  });

  test('uses all of them and follows the name, without a restart: nothing is lost, repeated, doubled or reordered', async () => {
    const history = new History();
    speakers = users.map((user) => new Speaker(url, user, history, { outstanding: 2, pauseMs: PAUSE_MS }));
    for (const [i, speaker] of speakers.entries()) speaker.talkTo(users[i ^ 1]?.userId as string);
    const total = (count: (speaker: Speaker) => number) => speakers.reduce((sum, speaker) => sum + count(speaker), 0);
    /** Messages flow, and each of these routers takes some. */
    const through = async (what: string, ...routers: MeshProcess[]) => {
      const taken = (router: MeshProcess) => metric(router, 'chatmesh_submits_total{result="accepted"}');
      const before = await Promise.all(routers.map(taken));
      const [accepted, got] = [total((s) => s.accepted), total((s) => s.got.size)];
      await until(
        async () => {
          const now = await Promise.all(routers.map(taken));
          const each = now.every((count, i) => count > (before[i] || 0));
          return each && total((s) => s.accepted) > accepted + ENOUGH && total((s) => s.got.size) > got + ENOUGH;
        },
        { what },
      );
    };

    await reaches(2, 0);
    await through('both are used', first, second);

    // One leaves, as a pod does: its name goes, then it ends. Named again before the next look, it is connected to again.
    resolvesTo(FIRST);
    await says('a router is named no more', 1);
    await second.end('SIGTERM');
    resolvesTo(FIRST, SECOND);
    await second.start();
    await reaches(2, 0);
    await through('the one that is back is used', first, second);

    // The other one leaves for good.
    resolvesTo(SECOND);
    await says('a router is named no more', 2);
    await first.end('SIGTERM');
    await reaches(1, 0);
    await through('the one that is left is used', second);

    // A name of nothing says nothing about the routers.
    const before = said(KEPT);
    resolvesTo();
    await says(KEPT, before + 1);
    await reaches(1, 0);
    await through('the one that is known is used', second);

    // One that comes.
    await first.start();
    resolvesTo(FIRST, SECOND);
    await reaches(2, 0);
    await through('both are used again', first, second);

    await judge(speakers, history);
  }, 300_000);
});
