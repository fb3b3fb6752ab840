import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatReport, History } from '@chatmesh/sdk/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { repeats } from '../long.js';
import { SERVICES, type ServiceName, TestMesh, until } from '../mesh.js';
import { randomFrom } from '../random.js';
import { OUTSTANDING, Speaker } from '../speaker.js';

const USERS = 8;
/** A confirmation takes effect within a second; only what comes later than that is a repeat. */
const EFFECT_MS = 1100;
const MESH_KILLS = repeats(1, 10);
/** Services are killed in turn, from the one that the seed chooses on. */
const SERVICE_KILLS = repeats(1, 3 * SERVICES.length);
const seed = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31));

describe(`processes killed at random moments under load (FAULT_SEED=${seed})`, () => {
  let mesh: TestMesh | undefined;
  let speakers: Speaker[] = [];
  afterEach(async () => {
    await Promise.all(speakers.map((speaker) => speaker.close()));
    await mesh?.[Symbol.asyncDispose]();
  });

  async function rounds(running: TestMesh, victims: readonly ServiceName[]): Promise<void> {
    const random = randomFrom(seed);
    const lag = monitorEventLoopDelay({ resolution: 10 });
    lag.enable();
    const history = new History();
    const users = await running.users(USERS);
    speakers = users.map((user) => new Speaker(running.url, user, history));
    for (const [i, speaker] of speakers.entries()) speaker.talkTo(users[i ^ 1]?.userId as string);
    const total = (count: (speaker: Speaker) => number): number => speakers.reduce((sum, s) => sum + count(s), 0);
    const traffic = async (what: string): Promise<void> => {
      const before = total((s) => s.accepted);
      // More than can have been on its way when the process died.
      const enough = before + USERS * OUTSTANDING + 1;
      await until(() => total((s) => s.accepted) >= enough, { timeoutMs: 60_000, what });
    };

    const backMs: string[] = [];
    const soFar = () =>
      `; ms until messages flowed again: ${backMs.join(', ')}; this process lagged up to ${Math.round(lag.max / 1e6)} ms`;
    await traffic('traffic');
    for (const victim of victims) {
      // One fault at a time: what was confirmed while a router was away has taken effect a second after its return.
      await sleep(EFFECT_MS + random() * 1000);
      if (running.process(victim).services.includes('edge')) history.killing();
      await running.process(victim).end('SIGKILL');
      const killedMs = performance.now();
      await running.process(victim).start();
      await traffic(`traffic after the death of ${victim}${soFar()}`);
      backMs.push(`${victim} ${Math.round(performance.now() - killedMs)}`);
    }

    await Promise.all(speakers.map((speaker) => speaker.finish()));
    const sent = total((s) => s.sent);
    // Gives up quietly: the judgement names what is missing.
    await until(() => total((s) => s.got.size) >= sent && total((s) => s.receipts.size) >= sent).catch(() => undefined);
    await sleep(EFFECT_MS);
    await Promise.all(speakers.map((speaker) => speaker.reconnect()));
    await Promise.all(speakers.map((speaker) => speaker.close()));

    const report = history.check({ nowMs: performance.now() + EFFECT_MS });
    console.log(`seed ${seed}${soFar()}\n${formatReport(report)}`);
    const broken = Object.entries(report.faults).filter(([, { count }]) => count > 0);
    expect(Object.fromEntries(broken)).toEqual({});
    expect(report.counts).toMatchObject({ sends: sent, accepted: sent, delivered: sent, unanswered: 0, refused: 0 });
  }

  test('the whole mesh: nothing accepted is lost, repeated, doubled or reordered', async () => {
    mesh = await TestMesh.start();
    await rounds(mesh, Array<ServiceName>(MESH_KILLS).fill('chat'));
  }, 400_000);

  test('each service alone: nothing accepted is lost, repeated, doubled or reordered', async () => {
    mesh = await TestMesh.start({ split: true });
    const victim = (i: number) => SERVICES[(seed + i) % SERVICES.length] as ServiceName;
    await rounds(
      mesh,
      Array.from({ length: SERVICE_KILLS }, (_, i) => victim(i)),
    );
  }, 400_000);
});
