import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from '@jest/globals';
import { WireClient } from '../client.js';
import { type MeshProcess, type TestUser, until } from '../mesh.js';
import { type Cluster, EDGES } from './cluster.js';

/** Something that happens to a mesh. */
export interface Fault {
  readonly name: string;
  /** True where an engine is away for a while: sends may be refused meanwhile. */
  readonly engine?: boolean;
  /** Does it; resolves when service may be expected back. */
  inject(): Promise<void>;
  /** Puts right what the fault leaves behind, once service is back. */
  mend?(): Promise<unknown>;
}

interface Restartable {
  kill(): Promise<void>;
  start(): Promise<unknown>;
}

const PAUSE_MS = 20_000;
const CUT_MS = 10_000;
/** What an orchestrator waits after one process is ready before it stops the next (minReadySeconds). */
const MIN_READY_MS = 1_000;
const CLOCK_SKEW_MS = 5_000;
const THIRD = 2;
/** Less than the client of the log would wait, and more than a busy machine takes. */
const AT_ONCE_MS = 2_000;

/** What can happen, with every choice left to `random`. */
export function faultsOf(cluster: Cluster, random: () => number): Fault[] {
  const either = <T>(items: readonly T[]): T => items[Math.floor(random() * Math.min(2, items.length))] as T;
  const killed = async (process: MeshProcess) => {
    await process.end('SIGKILL');
    await sleep(random() * 1_000);
    await process.start();
  };
  const restarted = async (engine: Restartable) => {
    await engine.kill();
    await sleep(random() * 2_000);
    await engine.start();
  };
  const whole = (name: string, engine: Restartable): Fault => ({
    name: `${name} killed and restarted`,
    engine: true,
    inject: () => restarted(engine),
  });
  // No outage: the others go on.
  const one =
    (name: string) =>
    (engine: Restartable, at: number): Fault => ({
      name: `kill -9 of ${name} ${at + 1} of 3`,
      inject: () => engine.kill(),
      mend: () => engine.start(),
    });
  return [
    { name: 'kill -9 of an edge', inject: () => killed(either(cluster.edges)) },
    { name: 'kill -9 of a router', inject: () => killed(either(cluster.routers)) },
    {
      name: 'kill -9 of a router, which stays away',
      inject: () => cluster.routers[0]?.end('SIGKILL').then(() => {}) ?? Promise.resolve(),
      mend: async () => cluster.routers[0]?.start(),
    },
    { name: 'kill -9 of user', inject: () => killed(cluster.user) },
    { name: 'kill -9 of presence', inject: () => killed(cluster.presence) },
    {
      name: 'a rolling restart by SIGTERM',
      inject: async () => {
        const [first, second] = cluster.routers;
        for (const process of [cluster.user, cluster.presence, first, second, ...cluster.edges]) {
          await process?.end('SIGTERM');
          await process?.start();
          await sleep(MIN_READY_MS);
        }
      },
    },
    {
      name: 'a third router joins, and leaves',
      inject: async () => cluster.routers[THIRD]?.start(),
      mend: async () => void (await cluster.routers[THIRD]?.end('SIGTERM')),
    },
    {
      name: 'a third router joins, and is killed',
      inject: async () => {
        await cluster.routers[THIRD]?.start();
        await sleep(2_000 + random() * 4_000);
        await cluster.routers[THIRD]?.end('SIGKILL');
      },
    },
    {
      name: 'SIGSTOP of a router for 20 s',
      inject: async () => {
        const router = either(cluster.routers);
        router.signal('SIGSTOP');
        await sleep(PAUSE_MS);
        router.signal('SIGCONT');
      },
    },
    {
      name: 'a cut between an edge and a router',
      inject: async () => {
        const wire = either(cluster.wires[Math.floor(random() * EDGES)] ?? []);
        wire.cut();
        await sleep(CUT_MS);
        wire.mend();
      },
    },
    {
      name: 'a router whose clock is 5 s off',
      inject: () => cluster.replaceRouter(1, random() < 0.5 ? CLOCK_SKEW_MS : -CLOCK_SKEW_MS),
      mend: () => cluster.replaceRouter(1, 0),
    },
    { name: 'Redis FLUSHALL', inject: () => flushAll(cluster.redis.ports.redis ?? 0) },
    { name: 'Redis killed and restarted', engine: true, inject: () => restarted(cluster.redis) },
    ...('kill' in cluster.pulsar ? [logAway(cluster, cluster.pulsar)] : cluster.pulsar.bookies.map(one('bookie'))),
    ...('kill' in cluster.cassandra
      ? [whole('Cassandra', cluster.cassandra)]
      : cluster.cassandra.nodes.map(one('Cassandra node'))),
    {
      name: 'PostgreSQL stopped for 20 s',
      engine: true,
      inject: async () => {
        cluster.postgres.pause();
        await sleep(PAUSE_MS);
        cluster.postgres.resume();
      },
    },
  ];
}

/**
 * Without the log a router is not ready and refuses what comes at once, instead of letting clients wait; both end with the
 * outage, without a restart.
 */
function logAway(cluster: Cluster, log: Restartable): Fault {
  const readiness = ({ adminPort }: MeshProcess) =>
    fetch(`http://127.0.0.1:${adminPort}/readyz`).then(({ status }) => status);
  const running = () => cluster.routers.slice(0, THIRD);
  const become = async (status: number) => {
    for (const router of running())
      await until(async () => (await readiness(router)) === status, { what: `/readyz of a router with ${status}` });
  };
  return {
    name: 'Pulsar killed and restarted',
    engine: true,
    inject: async () => {
      const [user] = (await cluster.users(1)) as [TestUser];
      const client = await WireClient.connect(cluster.urls[0] as string, user);
      const send = () => client.answer(client.message(user, 'to myself'));
      try {
        await until(async () => (await send()).status === 'sent', { what: 'an acceptance before the outage' });
        await log.kill();
        await become(503);
        // What was on its way is waited for, and what came after it is answered behind it.
        expect((await send()).error).toMatchObject({ code: 'unavailable' });
        const begunMs = performance.now();
        expect((await send()).error).toMatchObject({ code: 'unavailable' });
        expect(performance.now() - begunMs).toBeLessThan(AT_ONCE_MS);
        await log.start();
        await become(200);
        await until(async () => (await send()).status === 'sent', { what: 'an acceptance after the outage' });
      } finally {
        await client.close();
      }
    },
  };
}

async function flushAll(port: number): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  socket.write('FLUSHALL\r\n');
  const [answer] = await once(socket, 'data');
  socket.destroy();
  if (!String(answer).startsWith('+OK')) throw new Error(`Redis answered FLUSHALL with ${answer}`);
}
