import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Chat, ChatError, connect, type Trace } from '@chatmesh/sdk';
import { formatReport, type History } from '@chatmesh/sdk/testing';
import { expect } from '@jest/globals';
import { type TestUser, until } from './mesh.js';

/** Sends of one user without an answer, at most, unless said otherwise. */
export const OUTSTANDING = 16;
/** A confirmation takes effect within a second. */
const EFFECT_MS = 1100;
/** A client that would wait longer than this is replaced: tests are too short for its backoff to start anew. */
const PATIENCE_MS = 1000;

export interface SpeakerOptions {
  /** Sends without an answer at most. */
  readonly outstanding?: number;
  /** Between an answer and the next send. */
  readonly pauseMs?: number;
}

/** One user who talks to another, by default without pause. */
export class Speaker {
  /** server_message_ids and event_ids: a replaced client does not know what the one before it showed. */
  readonly got = new Set<string>();
  readonly receipts = new Set<string>();
  sent = 0;
  accepted = 0;
  /** Why messages were not accepted, and how often; the client sends such a one again. */
  readonly reasons = new Map<string, number>();
  readonly #options: SpeakerOptions;
  #chat: Promise<Chat>;
  #caughtUp = false;
  #talking = true;
  #talks: Promise<unknown> = Promise.resolve();
  readonly #onTrace: (entry: Trace) => void;

  constructor(
    readonly url: string,
    private readonly user: TestUser,
    history: History,
    options: SpeakerOptions = {},
  ) {
    this.#options = options;
    const tap = history.device(user.userId, user.deviceId).tap();
    this.#onTrace = (entry) => {
      if (entry.kind === 'in' && 'error' in entry.frame && entry.frame.error.code === 'unavailable') {
        const { message } = entry.frame.error;
        this.reasons.set(message, (this.reasons.get(message) ?? 0) + 1);
      }
      tap(entry);
    };
    this.#chat = this.#connect();
  }

  async #connect(): Promise<Chat> {
    for (;;) {
      try {
        const chat = await connect({
          url: this.url,
          token: this.user.token,
          onTrace: this.#onTrace,
          maxRetryDelayMs: PATIENCE_MS,
        });
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
    const { outstanding = OUTSTANDING } = this.#options;
    this.#talks = Promise.all(Array.from({ length: outstanding }, () => this.#talk(to)));
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
      if (this.#options.pauseMs) await sleep(this.#options.pauseMs);
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

/** Everybody says what is left and comes back once; then the history is judged. */
export async function judge(speakers: readonly Speaker[], history: History): Promise<void> {
  const total = (count: (speaker: Speaker) => number) => speakers.reduce((sum, speaker) => sum + count(speaker), 0);
  await Promise.all(speakers.map((speaker) => speaker.finish()));
  const sent = total((s) => s.sent);
  // Gives up quietly: the judgement names what is missing.
  await until(() => total((s) => s.got.size) >= sent && total((s) => s.receipts.size) >= sent, {
    timeoutMs: 30_000,
  }).catch(() => undefined);
  await sleep(EFFECT_MS);
  await Promise.all(speakers.map((speaker) => speaker.reconnect()));
  await Promise.all(speakers.map((speaker) => speaker.close()));

  const report = history.check({ nowMs: performance.now() + EFFECT_MS });
  console.log(formatReport(report));
  expect(Object.entries(report.faults).filter(([, { count }]) => count > 0)).toEqual([]);
  expect(report.counts).toMatchObject({ sends: sent, accepted: sent, delivered: sent, unanswered: 0, refused: 0 });
}
