import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatReport, History } from '@chatmesh/sdk/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { until } from '../mesh.js';
import { randomFrom } from '../random.js';
import { Speaker } from '../speaker.js';
import { Cluster } from './cluster.js';
import { type Fault, faultsOf } from './kinds.js';

const CLIENTS = Number(process.env.FAULT_CLIENTS ?? 200);
/** Each fault once, unless told otherwise. */
const ROUNDS = process.env.FAULT_ROUNDS === undefined ? undefined : Number(process.env.FAULT_ROUNDS);
const ONLY = process.env.FAULT_ONLY?.split(',');
const seed = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31));
/** A confirmation takes effect within a second; only what comes later than that is a repeat. */
const EFFECT_MS = 1100;
/** Of a client between two messages: some 200 a second together, which leaves two cores some room to show what a fault costs. */
const PAUSE_MS = 1_000;
const BACK_TIMEOUT_MS = 90_000;

describe(`two edges, two routers, user and presence on real engines, under load (FAULT_SEED=${seed})`, () => {
  let cluster: Cluster | undefined;
  let speakers: Speaker[] = [];
  afterEach(async () => {
    await Promise.all(speakers.map((speaker) => speaker.close()));
    await cluster?.[Symbol.asyncDispose]();
  });

  test('whatever dies: nothing accepted is lost, repeated, doubled or reordered', async () => {
    const random = randomFrom(seed);
    cluster = await Cluster.start();
    const running = cluster;
    const history = new History();
    const users = await running.users(CLIENTS);
    const pauseMs = PAUSE_MS;
    speakers = users.map(
      (user, i) =>
        new Speaker(running.urls[((i >> 1) % 2) ^ (i % 2)] as string, user, history, { outstanding: 1, pauseMs }),
    );
    for (const [i, speaker] of speakers.entries()) speaker.talkTo(users[i ^ 1]?.userId as string);
    const reasons = () => {
      const all = new Map<string, number>();
      for (const speaker of speakers)
        for (const [reason, count] of speaker.reasons) all.set(reason, (all.get(reason) ?? 0) + count);
      return all;
    };
    const total = (count: (speaker: Speaker) => number): number => speakers.reduce((sum, s) => sum + count(s), 0);

    /** Resolves when every client has had a message accepted, and got one, since now. */
    const flowing = async (what: string): Promise<void> => {
      const before = speakers.map(({ accepted, got }) => ({ accepted, got: got.size }));
      const stuck = () =>
        speakers.flatMap((speaker, i) => {
          const sends = speaker.accepted > (before[i]?.accepted ?? 0);
          const gets = speaker.got.size > (before[i]?.got ?? 0);
          if (sends && gets) return [];
          return [`${users[i]?.userId} at ${speaker.url}${sends ? '' : ' cannot send'}${gets ? '' : ' gets nothing'}`];
        });
      await until(() => stuck().length === 0, {
        timeoutMs: BACK_TIMEOUT_MS,
        what: () => `${what}\n${stuck().join('\n')}\n${running.output()}`,
      }).catch(async (error) => {
        console.log(await running.logState());
        throw error;
      });
    };

    const lag = monitorEventLoopDelay({ resolution: 10 });
    lag.enable();
    await flowing('traffic');
    const faults = schedule(faultsOf(running, random), random);
    const lines: string[] = [];
    let [accepted, refused] = [0, 0];
    for (const [i, fault] of faults.entries()) {
      await sleep(EFFECT_MS + random() * 1000);
      const before = { accepted: total((s) => s.accepted), reasons: reasons() };
      await fault.inject();
      const endedMs = performance.now();
      await flowing(`traffic after fault ${i + 1}, ${fault.name}\n${lines.join('\n')}`);
      const backMs = Math.round(performance.now() - endedMs);
      const took = total((s) => s.accepted) - before.accepted;
      const news = [...reasons()]
        .map(([why, n]) => [why, n - (before.reasons.get(why) ?? 0)] as const)
        .filter(([, n]) => n > 0);
      const refusals = news.reduce((sum, [, n]) => sum + n, 0);
      if (!fault.engine) {
        accepted += took;
        refused += refusals;
      }
      const told = [
        `${String(i + 1).padStart(4)}  ${fault.name.padEnd(34)} back after ${String(backMs).padStart(6)} ms; ${took} accepted, ${refusals} refused`,
        ...news.map(([why, n]) => `${' '.repeat(42)}${n} times: ${why}`),
      ];
      lines.push(...told);
      // Jest shows what tests print when they end, which here may be in an hour.
      process.stderr.write(`${told.join('\n')}\n`);
      await fault.mend?.();
    }
    const worstLagMs = Math.round(lag.max / 1e6);

    await Promise.all(speakers.map((speaker) => speaker.finish()));
    const sent = total((s) => s.sent);
    // Gives up quietly: the judgement names what is missing.
    await until(() => total((s) => s.got.size) >= sent && total((s) => s.receipts.size) >= sent).catch(() => undefined);
    await sleep(EFFECT_MS);
    await Promise.all(speakers.map((speaker) => speaker.reconnect()));
    await Promise.all(speakers.map((speaker) => speaker.close()));
    const report = history.check({ nowMs: performance.now() + EFFECT_MS });
    const share = (100 * accepted) / Math.max(1, accepted + refused);
    console.log(
      `seed ${seed}, ${CLIENTS} clients, ${faults.length} faults; this process lagged up to ${worstLagMs} ms\n${lines.join('\n')}\n` +
        `${share.toFixed(2)}% of the sends outside of engine outages were taken at once\n${formatReport(report)}`,
    );
    const broken = Object.entries(report.faults).filter(([, { count }]) => count > 0);
    if (broken.length > 0 || process.env.FAULT_OUTPUT) console.log(running.output(120));
    expect(Object.fromEntries(broken)).toEqual({});
    // A handful refused in one fault is more than a thousandth of a short run.
    if (faults.length >= 100) expect(share).toBeGreaterThanOrEqual(99.9);
    expect(report.counts).toMatchObject({ sends: sent, accepted: sent, delivered: sent, unanswered: 0, refused: 0 });
  }, 3_600_000);
});

/** Each fault once, in random order; or so many rounds, chosen at random. */
function schedule(all: readonly Fault[], random: () => number): Fault[] {
  const faults = ONLY ? all.filter(({ name }) => ONLY.some((part) => name.includes(part))) : all;
  if (ROUNDS !== undefined)
    return Array.from({ length: ROUNDS }, () => faults[Math.floor(random() * faults.length)] as Fault);
  const shuffled = [...faults];
  for (let i = shuffled.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [shuffled[i], shuffled[j]] = [shuffled[j] as Fault, shuffled[i] as Fault];
  }
  return shuffled;
}
