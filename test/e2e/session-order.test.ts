import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ChatService, readConfig as chatConfig } from '@chatmesh/chat';
import { EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { PresenceService } from '@chatmesh/presence';
import { UserService } from '@chatmesh/user';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { WireClient } from '../client.js';
import { CuttableWire } from '../cuttable-wire.js';
import { type TestUser, until } from '../mesh.js';

/** So many devices go through each order of events at once. */
const DEVICES = 6;
const host = '127.0.0.1';
const logger = createLogger({ name: 'test', level: 'silent' });
const deps = () => ({ logger, metrics: new Metrics({ processMetrics: false }) });

/** An edge, and the wire from it to the router: where it is cut, the edge looks to the router as if it stood still. */
interface WiredEdge {
  readonly edge: EdgeService;
  readonly wire: CuttableWire;
}

/** The connections of one device, the older one at the first edge. */
interface Pair {
  readonly user: TestUser;
  readonly older: WireClient;
  readonly newer: WireClient;
}

describe('of two sessions of a device at two edges the newer one stays', () => {
  const closing: (() => unknown)[] = [];
  let dataDir: string;
  let chatPort: number;
  let router: ChatService;
  let first: WiredEdge;
  let second: WiredEdge;
  let newUsers: () => Promise<TestUser[]>;

  const startRouter = async () => {
    const env = new EnvReader({ DATA_DIR: dataDir, SEND_RATE: '0', ...ports, CHAT_PORT: String(chatPort) });
    router = await ChatService.create(chatConfig(env), deps());
    await router.start();
  };
  const stopRouter = () => router[Symbol.asyncDispose]();
  let ports: Record<string, string>;

  beforeAll(async () => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-order-'));
    closing.push(() => rmSync(dataDir, { recursive: true, force: true }));
    const [userPort, presencePort, routerPort, ...others] = (await freePorts(7)) as [number, number, number];
    chatPort = routerPort;
    ports = { USER_PORT: String(userPort), PRESENCE_PORT: String(presencePort) };
    const user = await UserService.create({ host, port: userPort, dataDir }, deps());
    closing.push(() => user[Symbol.asyncDispose]());
    await user.start();
    const presence = await PresenceService.create({ host, port: presencePort }, deps());
    closing.push(() => presence[Symbol.asyncDispose]());
    await presence.start();
    await startRouter();
    closing.push(() => stopRouter());
    const startEdge = async ([port, h2Port]: readonly number[]): Promise<WiredEdge> => {
      const wire = await CuttableWire.to(chatPort);
      closing.push(() => wire[Symbol.asyncDispose]());
      const addresses = { EDGE_HOST: host, EDGE_PORT: String(port), EDGE_H2_PORT: String(h2Port) };
      const env = new EnvReader({ ...ports, ...addresses, CHAT_ADDRESSES: `${host}:${wire.port}` });
      const edge = await EdgeService.create(edgeConfig(env), deps());
      closing.push(() => edge[Symbol.asyncDispose]());
      await edge.start();
      return { edge, wire };
    };
    first = await startEdge(others.slice(0, 2));
    second = await startEdge(others.slice(2));
    const directory = createClient(DirectoryService, { address: `${host}:${userPort}`, logger });
    closing.push(() => directory.close());
    let number = 15_550_000_000;
    newUsers = async () => {
      const contactNumber = `+${number}`;
      number += DEVICES;
      return (await directory.createUsers({ contactNumber, name: 'Test', count: DEVICES })).users;
    };
  }, 120_000);
  afterAll(async () => {
    for (const close of closing.reverse()) await close();
  });

  afterEach(async () => {
    // An edge that is told of its end knows that a connection is another one.
    await Promise.all([cutOff(first), cutOff(second)]);
    first.wire.mend();
    second.wire.mend();
    await routed(first, second);
  });

  const connect = ({ edge }: WiredEdge, user: TestUser) =>
    WireClient.connect(`ws://${host}:${edge.port}/connect`, user);
  const connectAll = (at: WiredEdge, users: readonly TestUser[]) => Promise.all(users.map((user) => connect(at, user)));
  const allCaughtUp = (clients: readonly WireClient[]) =>
    Promise.all(clients.map((client) => client.frame((f) => f.caught_up === true)));
  const routed = (...edges: WiredEdge[]) =>
    until(() => edges.every(({ edge }) => edge.sessions.routed), { what: 'the edges to reach the router' });
  const cutOff = async ({ edge, wire }: WiredEdge) => {
    wire.refuse();
    await until(() => !edge.sessions.routed, { what: 'the edge to know that it is cut off' });
  };
  /** Every open session of the edge has the router for its owner: what it had to say has been heard and answered. */
  const attached = ({ edge }: WiredEdge) =>
    until(() => edge.sessions.routed && [...edge.sessions.all()].every(({ owner }) => owner), {
      what: 'the sessions to be attached',
    });

  /** Both of each device's connections, the newer one opened while the first edge stands still. */
  const replaced = async (): Promise<Pair[]> => {
    await routed(first, second);
    const users = await newUsers();
    const older = await connectAll(first, users);
    await allCaughtUp(older);
    first.wire.cut();
    const newer = await connectAll(second, users);
    await allCaughtUp(newer);
    return users.map((user, i) => ({ user, older: older[i] as WireClient, newer: newer[i] as WireClient }));
  };
  /** The same where no router knows of any of them. */
  const unannounced = async (): Promise<Pair[]> => {
    await routed(first, second);
    const users = await newUsers();
    // Devices that are known already: a router has to hear of new ones.
    await Promise.all((await connectAll(first, users)).map((client) => client.close()));
    await Promise.all([cutOff(first), cutOff(second)]);
    const older = await connectAll(first, users);
    const began = performance.now();
    // Longer than an announcement takes: that is all that can blur which began later.
    await until(() => performance.now() - began > 400, { what: 'the devices to connect anew' });
    const newer = await connectAll(second, users);
    return users.map((user, i) => ({ user, older: older[i] as WireClient, newer: newer[i] as WireClient }));
  };
  const newerStays = async (pairs: readonly Pair[]) => {
    const closed = ({ older, newer }: Pair) => older.closeCode ?? newer.closeCode;
    await until(() => pairs.every((pair) => closed(pair) !== undefined), {
      what: 'one to be closed',
    });
    expect(pairs.map(({ newer }) => newer.closeCode)).toEqual(pairs.map(() => undefined));
    await attached(second);
    expect(pairs.map(({ older }) => older.closeCode)).toEqual(pairs.map(() => 4409));
    for (const { user, newer } of pairs) newer.message(user, 'to myself');
    await Promise.all(pairs.map(({ newer }) => newer.frame((f) => f.content === 'to myself')));
    await Promise.all(pairs.map(({ newer }) => newer.close()));
  };

  /** What the two edges find when they come back. */
  const ORDERS: Record<string, () => Promise<void>> = {
    'the older one is announced first': async () => {
      first.wire.mend();
      await attached(first);
      second.wire.mend();
    },
    'the newer one is announced first': async () => {
      second.wire.mend();
      await attached(second);
      first.wire.mend();
    },
    'both are announced at once': async () => {
      first.wire.mend();
      second.wire.mend();
    },
  };

  for (const [order, comeBack] of Object.entries(ORDERS)) {
    test(`${order}, and no router had seen either`, async () => {
      const pairs = await unannounced();
      await comeBack();
      await newerStays(pairs);
    }, 120_000);
  }

  test('the older one stays where the newer one has ended meanwhile', async () => {
    const pairs = await replaced();
    await Promise.all([cutOff(first), cutOff(second)]);
    await Promise.all(pairs.map(({ newer }) => newer.close()));
    await stopRouter();
    await startRouter();
    second.wire.mend();
    first.wire.mend();
    await Promise.all([routed(second), attached(first)]);
    for (const { user, older } of pairs) older.message(user, 'to myself');
    await Promise.all(pairs.map(({ older }) => older.frame((f) => f.content === 'to myself')));
    await Promise.all(pairs.map(({ older }) => older.close()));
  }, 120_000);

  for (const [order, comeBack] of Object.entries(ORDERS)) {
    for (const restarted of [false, true]) {
      test(`${order}, the router ${restarted ? 'started again' : 'stayed'}`, async () => {
        for (let round = 0; round < 3; round++) {
          const pairs = await replaced();
          await Promise.all([cutOff(first), cutOff(second)]);
          if (restarted) {
            await stopRouter();
            await startRouter();
          }
          await comeBack();
          await newerStays(pairs);
        }
      }, 120_000);
    }
  }
});
