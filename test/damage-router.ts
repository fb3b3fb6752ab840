import { randomUUID } from 'node:crypto';
import { Writable } from 'node:stream';
import { type ChatOverrides, ChatService, readConfig } from '@chatmesh/chat';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { type RouteRequest, RouterService } from '@chatmesh/gen/chat/v1/router';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { RouteRequestWire, SubmitWire } from '@chatmesh/gen/wire/chat/v1/router';
import { type BidiCall, createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { freePorts } from '#engines';
import { deviceOf, type Sent, textOf, USERS, userOf } from './damage-world.js';
import { until } from './mesh.js';

/** What a sender was told: of an accepted message its time, of a refused one the code. */
export interface Answer {
  readonly clientMessageId: string;
  readonly acceptedAtMs: number;
  readonly deduplicated: boolean;
  readonly refusal: string;
}

/** One delivery to a device. */
export interface Delivered {
  readonly id: string;
  readonly clientMessageId: string;
  readonly to: number;
  readonly sound: boolean;
}

/** A router on embedded stores, and the edge of all users, each with one device, in this process. */
export class DamagedRouter implements AsyncDisposable {
  readonly delivered: Delivered[] = [];
  /** Ids of the messages of which a sender was told that they failed. */
  readonly failed = new Set<string>();
  /** What the router has logged. */
  readonly lines: string[];
  readonly #chat: ChatService;
  readonly #metrics: Metrics;
  #call: BidiCall<unknown, RouteRequest> | undefined;
  #caughtUp = new Set<number>();
  #waiting = new Map<number, (answer: Omit<Answer, 'clientMessageId'>) => void>();
  #refs = 0;
  #confirms = 0;
  #confirming = false;
  #ended = false;
  readonly #closing: (() => unknown)[] = [];

  private constructor(chat: ChatService, metrics: Metrics, lines: string[]) {
    this.#chat = chat;
    this.#metrics = metrics;
    this.lines = lines;
  }

  /** @param without a user for whom presence does not answer: what is sent to this one stays on the log. */
  static async start(dataDir: string, without?: number): Promise<DamagedRouter> {
    const lines: string[] = [];
    const destination = new Writable({
      write(line, _, done) {
        lines.push(String(line));
        done();
      },
    });
    const logger = createLogger({ name: 'chat', level: 'warn', destination });
    const metrics = new Metrics({ processMetrics: false });
    const [port] = await freePorts(1);
    const env = { DATA_DIR: dataDir, CHAT_PORT: String(port), SEND_RATE: '0' };
    const chat = await ChatService.create(readConfig(new EnvReader(env)), { logger, metrics }, overrides(without));
    const router = new DamagedRouter(chat, metrics, lines);
    router.#closing.push(() => chat[Symbol.asyncDispose]());
    try {
      await chat.start();
      const client = createClient(RouterService, { address: `127.0.0.1:${port}`, logger });
      router.#closing.push(() => client.close());
      const call = client.route() as unknown as BidiCall<Parameters<DamagedRouter['hear']>[0], RouteRequest>;
      call.onMessage((response) => router.hear(response));
      call.onClose(() => router.#lost());
      router.#closing.push(() => call.end());
      router.#call = call as unknown as BidiCall<unknown, RouteRequest>;
      router.#say({ hello: { edgeId: randomUUID() } as NonNullable<RouteRequest['hello']> });
    } catch (error) {
      await router[Symbol.asyncDispose]();
      throw error;
    }
    return router;
  }

  /** Opens a session of each user, confirms what is delivered if asked to; resolves when all are caught up. */
  async drain(confirm: boolean): Promise<void> {
    this.#confirming = confirm;
    const opened = Array.from({ length: USERS }, (_, i) => ({
      session: i + 1,
      order: 0n,
      ageMs: 0,
      userId: userOf(i),
      deviceId: deviceOf(i),
    }));
    this.#say({ openedSessions: opened as unknown as RouteRequest['openedSessions'] });
    await until(() => this.#caughtUp.size === USERS, {
      timeoutMs: 20_000,
      what: () => `everybody to be caught up; ${[...this.#caughtUp]} are\n${this.lines.join('')}`,
    });
  }

  /** Resolves when all events but so many have left the log. */
  async leftOnLog(events: number): Promise<void> {
    await until(() => this.#chat.owner.unacknowledged === events, {
      what: () => `events to leave the log: ${this.#chat.owner.unacknowledged} are there, not ${events}`,
    });
  }

  /** What is delivered from now on is not confirmed. */
  confirmNothing(): void {
    this.#confirming = false;
  }

  /** Hands messages in; resolves with what became of each. */
  async send(messages: readonly Sent[]): Promise<Answer[]> {
    const answers: Promise<Answer>[] = [];
    const submits = messages.map(({ from, to, clientMessageId }) => {
      const submit = SubmitWire.create();
      submit.ref = ++this.#refs;
      submit.senderId = userOf(from);
      submit.senderDeviceId = deviceOf(from);
      submit.receiverId = userOf(to);
      submit.clientMessageId = clientMessageId;
      submit.payload = textOf(clientMessageId) as unknown as typeof submit.payload;
      answers.push(
        new Promise((resolve) => {
          this.#waiting.set(submit.ref, (answer) => resolve({ clientMessageId, ...answer }));
        }),
      );
      return submit;
    });
    for (let at = 0; at < submits.length; at += 50) this.#say({ submits: submits.slice(at, at + 50) });
    return await Promise.all(answers);
  }

  /** Nobody answers any more, unless this is the end. */
  #lost(): void {
    if (!this.#ended) throw new Error(`the stream to the router has ended:\n${this.lines.join('')}`);
  }

  /** The reasons of all dead letters. */
  async deadLetters(): Promise<string[]> {
    const letters = await this.#chat.owner.deadLetters.list(100);
    return letters.map(({ event }) => event.givenUp?.reason ?? '');
  }

  /** Rows that were found to be damaged so far, as the metrics say. */
  async damagedRows(): Promise<number> {
    const text = await this.#metrics.text();
    return [...text.matchAll(/^chatmesh_damaged_rows_total\{.*\} (\d+)$/gm)].reduce((sum, [, n]) => sum + Number(n), 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    for (const close of this.#closing.reverse()) await close();
  }

  hear(response: {
    attach: { session: number }[];
    pushes: { sessions: number[]; events: Uint8Array[]; caughtUp: boolean }[];
    submitResults: {
      ref: number;
      acceptedAtMs: bigint;
      deduplicated: boolean;
      refusal?: { code: string } | undefined;
    }[];
  }): void {
    const attached = response.attach.map(({ session }) => ({ session, attached: true }));
    if (attached.length > 0) this.#say({ attachResults: attached as unknown as RouteRequest['attachResults'] });
    for (const { ref, acceptedAtMs, deduplicated, refusal } of response.submitResults) {
      this.#waiting.get(ref)?.({ acceptedAtMs: Number(acceptedAtMs), deduplicated, refusal: refusal?.code ?? '' });
      this.#waiting.delete(ref);
    }
    const confirmations: { session: number; status: MessageStatus; ids: string[]; frameSizes: number[] }[] = [];
    for (const { sessions, events, caughtUp } of response.pushes) {
      for (const session of sessions) {
        if (caughtUp) this.#caughtUp.add(session);
        const ids: string[] = [];
        const acks: string[] = [];
        for (const event of events) {
          const { kind } = LogEventWire.decode(event);
          if (kind.case === 'message') {
            const { serverMessageId: id, clientMessageId, payload } = kind.value;
            const sound = Buffer.compare(payload, textOf(clientMessageId)) === 0;
            this.delivered.push({ id, clientMessageId, to: session - 1, sound });
            ids.push(id);
          } else if (kind.case === 'receipt') {
            if (kind.value.status === MessageStatus.FAILED) this.failed.add(kind.value.serverMessageId);
            acks.push(kind.value.eventId);
          }
        }
        if (this.#confirming && ids.length > 0)
          confirmations.push({ session, status: MessageStatus.DELIVERED, ids, frameSizes: [] });
        if (acks.length > 0)
          confirmations.push({ session, status: MessageStatus.UNSPECIFIED, ids: acks, frameSizes: [] });
      }
    }
    if (confirmations.length === 0) return;
    this.#say({
      sequence: ++this.#confirms,
      confirmations: confirmations as unknown as RouteRequest['confirmations'],
    });
  }

  #say(part: Partial<RouteRequest>): void {
    this.#call?.write({ ...RouteRequestWire.create(), ...part });
  }
}

function overrides(without: number | undefined): Partial<ChatOverrides> {
  const users = Array.from({ length: USERS }, (_, i) => ({
    userId: userOf(i),
    deviceIds: [deviceOf(i)],
    blockedUserIds: new Set<string>(),
    readReceipts: true,
    suspended: false,
  }));
  const absent = without === undefined ? '' : userOf(without);
  return {
    directory: { resolve: async (ids) => users.filter(({ userId }) => ids.includes(userId)) },
    presence: { sessions: (userId) => (userId === absent ? new Promise(() => {}) : Promise.resolve([])) },
  };
}
