import { randomUUID } from 'node:crypto';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Chat, ChatError, connect, type Trace } from '@chatmesh/sdk';
import { formatReport, History } from '@chatmesh/sdk/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { SERVICES, type ServiceName, TestMesh, type TestUser, until } from '../mesh.js';

const USERS = 8;
const OUTSTANDING = 16;
/** A client that would wait longer than this is replaced: rounds are too short for its backoff to start anew. */
const PATIENCE_MS = 1000;
/** A confirmation takes effect within a second; only what comes later than that is a repeat. */
const EFFECT_MS = 1100;
const seed = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** mulberry32: small, seeded, and random enough to choose moments. */
function randomFrom(start: number): () => number {
  let a = start;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One user who talks to another without pause, with at most OUTSTANDING sends unanswered. */
class Speaker {
  /** server_message_ids and event_ids: a replaced client does not know what the one before it showed. */
  readonly got = new Set<string>();
  readonly receipts = new Set<string>();
  sent = 0;
  accepted = 0;
  #chat: Promise<Chat>;
  #caughtUp = false;
  #talking = true;
  #talks: Promise<unknown> = Promise.resolve();
  readonly #onTrace: (entry: Trace) => void;

  constructor(
    private readonly url: string,
    private readonly user: TestUser,
    history: History,
  ) {
    this.#onTrace = history.device(user.userId, user.deviceId).tap();
    this.#chat = this.#connect();
  }

  async #connect(): Promise<Chat> {
    for (;;) {
      try {
        const chat = await connect({ url: this.url, token: this.user.token, onTrace: this.#onTrace });
        chat.on('message', ({ serverMessageId }) => void this.got.add(serverMessageId));
        chat.on('receipt', ({ eventId }) => void this.receipts.add(eventId));
        chat.on('caught_up', () => {
          this.#caughtUp = true;
        });
        chat.on('status', (status) => {
          if (status.state === 'waiting' && status.retryInMs > PATIENCE_MS) this.#chat = this.#replace(chat);
        });
        return chat;
      } catch (error) {
        if (!(error instanceof ChatError) || error.code !== 'unavailable') throw error;
        await sleep(50);
      }
    }
  }

  async #replace(chat: Chat): Promise<Chat> {
    await chat.close();
    return this.#connect();
  }

  talkTo(to: string): void {
    this.#talks = Promise.all(Array.from({ length: OUTSTANDING }, () => this.#talk(to)));
    // Told by `finish`; until then it must not end the test process.
    this.#talks.catch(() => undefined);
  }

  async #talk(to: string): Promise<void> {
    while (this.#talking) {
      const message = { to, text: `message ${this.sent++} to ${to}`, clientMessageId: randomUUID() };
      for (let answered = false; !answered; ) {
        const chat = await this.#chat;
        answered = await chat.send(message).then(
          () => true,
          // Its client was replaced before the answer: the same id again must cause no second message.
          (error) => {
            if (error instanceof ChatError && error.code === 'closed') return false;
            throw error;
          },
        );
      }
      this.accepted += 1;
    }
  }

  /** Stops talking; resolves when every send is answered. */
  async finish(): Promise<void> {
    this.#talking = false;
    await this.#talks;
  }

  /** Looks again, as a client that knows nothing: resolves when all that still waited has come. */
  async reconnect(): Promise<void> {
    await this.close();
    this.#caughtUp = false;
    this.#chat = this.#connect();
    await until(() => this.#caughtUp, { what: 'caught_up' });
  }

  async close(): Promise<void> {
    await (await this.#chat).close();
  }
}

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
      await sleep(random() * 1000);
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

  test('the whole mesh, ten times: nothing accepted is lost, repeated, doubled or reordered', async () => {
    mesh = await TestMesh.start();
    await rounds(mesh, Array<ServiceName>(10).fill('chat'));
  }, 400_000);

  test('each service alone, three times: nothing accepted is lost, repeated, doubled or reordered', async () => {
    mesh = await TestMesh.start({ split: true });
    await rounds(mesh, [...SERVICES, ...SERVICES, ...SERVICES]);
  }, 400_000);
});
