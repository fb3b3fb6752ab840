import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { GivenUpWire, LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { type Logger, toMeshError, traceFields } from '@chatmesh/mesh';
import { traceparentOf } from '../domain/events.js';
import { DEAD_LETTERS_DEVICE, DEAD_LETTERS_USER } from '../domain/ids.js';
import type { InboxStore } from '../stores/inbox-store.js';
import type { LogConsumer, LogRecord, MessageLog, Position } from '../stores/message-log.js';

/** An event that was given up. */
export interface DeadLetter {
  /** Where it stands among the dead letters; what an operator calls it. */
  readonly id: Position;
  /** With `givenUp`. */
  readonly event: LogEvent;
}

export interface DeadLettersDeps {
  /** Where events come from, and go to again. */
  readonly log: MessageLog;
  /** Where they go first when they are given up: it takes them as long as the log takes anything. */
  readonly deadLetters: MessageLog;
  readonly inbox: InboxStore;
  readonly now: () => number;
  readonly logger: Logger;
  /** Runs something until it succeeds or fails for another reason than an outage. */
  readonly whileUnavailable: <T>(attempt: () => Promise<T>) => Promise<T>;
  /** Tells the sender of a message that it is given up. */
  readonly tellSender: (event: LogEvent, position: Position) => Promise<void>;
}

const MAX_UNACKNOWLEDGED = 1_000;
const PAGE = 256;

/**
 * Events that could not be handled. Each goes to a log of its own, whose consumer keeps it in an inbox that is nobody's and then tells
 * the sender; there it waits for an operator, who has it handled again or discards it, or expires like any other row.
 */
export class DeadLetters {
  readonly #deps: DeadLettersDeps;
  #consumer: LogConsumer | undefined;
  #stopped = false;

  constructor(deps: DeadLettersDeps) {
    this.#deps = deps;
  }

  async start(): Promise<void> {
    this.#consumer = await this.#deps.deadLetters.consume((records) => void this.#keepAll(records), {
      maxUnacknowledged: MAX_UNACKNOWLEDGED,
      damaged: ({ position }) => this.lose(undefined, position, 'internal: a dead letter is damaged'),
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#consumer?.close();
  }

  /** Gives a record up; resolves when the log may forget it. */
  async bury({ event, position }: LogRecord, error: unknown): Promise<void> {
    const { now, deadLetters, logger, whileUnavailable } = this.#deps;
    const { kind } = event;
    const confirmed = kind.case === 'confirmation' ? { deviceId: kind.value.deviceId, ids: kind.value.ids } : {};
    const told = { err: error, position, kind: kind.case, ...confirmed, ...traceFields(traceparentOf(event)) };
    logger.error(told, 'an event is given up');
    // What an unknown error says may hold what it failed on: toMeshError keeps that to the log.
    const { kind: code, message } = toMeshError(error);
    const givenUp = { ...GivenUpWire.create(), position, reason: `${code}: ${message}`, atMs: BigInt(now()) };
    await whileUnavailable(() => deadLetters.publish([{ ...event, givenUp }]));
  }

  /** Notes an event of which nothing is left that could be handled; `userId` is whose it was, where that is known. */
  async lose(userId: string | undefined, position: Position, reason: string): Promise<void> {
    const { now, deadLetters, logger, whileUnavailable } = this.#deps;
    logger.error({ position, reason }, 'an event is lost');
    const event = LogEventWire.create();
    event.userId = userId ?? DEAD_LETTERS_USER;
    event.givenUp = { ...GivenUpWire.create(), position, reason, atMs: BigInt(now()) };
    await whileUnavailable(() => deadLetters.publish([event]));
  }

  /**
   * Up to `limit` dead letters after the id `after` (from the start when undefined), oldest first.
   *
   * @throws MeshError `unavailable`
   */
  async list(limit: number, after?: Position): Promise<DeadLetter[]> {
    const rows = await this.#deps.inbox.page(DEAD_LETTERS_USER, DEAD_LETTERS_DEVICE, after, limit);
    return rows.map(({ position, payload }) => ({ id: position, event: LogEventWire.decode(payload) }));
  }

  /**
   * Publishes dead letters again, in their order, then takes them off the list: a crash in between has them handled twice, which
   * no device notices.
   *
   * @param deliverFailed whether also messages whose senders were told; these are not told otherwise later.
   * @returns ids; those of `senderTold` and `notFound` were left alone. Nothing can be found of an event that is lost.
   * @throws MeshError `unavailable`
   */
  async redrive(
    ids: readonly Position[],
    deliverFailed: boolean,
  ): Promise<{ redriven: Position[]; senderTold: Position[]; notFound: Position[] }> {
    const { found, notFound } = await this.#find(ids);
    const lost = found.filter(({ event }) => event.kind.case === undefined);
    const stay = found.filter(({ event }) => !deliverFailed && senderKnows(event));
    const go = found.filter((letter) => !stay.includes(letter) && !lost.includes(letter));
    if (go.length > 0) {
      await this.#deps.log.publish(go.map(({ event }) => again(event)));
      await this.#remove(go);
    }
    return { redriven: idsOf(go), senderTold: idsOf(stay), notFound: [...notFound, ...idsOf(lost)] };
  }

  /** Takes dead letters off the list for good. @throws MeshError `unavailable` */
  async discard(ids: readonly Position[]): Promise<{ discarded: Position[]; notFound: Position[] }> {
    const { found, notFound } = await this.#find(ids);
    await this.#remove(found);
    return { discarded: idsOf(found), notFound };
  }

  async #find(ids: readonly Position[]): Promise<{ found: DeadLetter[]; notFound: Position[] }> {
    const wanted = [...new Set(ids)].sort();
    const missing = new Set(wanted);
    const found: DeadLetter[] = [];
    const last = wanted.at(-1) as Position;
    for (let after: Position | undefined = before(wanted[0] as Position); missing.size > 0; ) {
      const page = await this.list(PAGE, after);
      for (const letter of page) if (missing.delete(letter.id)) found.push(letter);
      after = page.at(-1)?.id;
      if (after === undefined || after >= last) break;
    }
    return { found, notFound: [...missing] };
  }

  #remove(letters: readonly DeadLetter[]): Promise<void> {
    return this.#deps.inbox.remove(DEAD_LETTERS_USER, DEAD_LETTERS_DEVICE, idsOf(letters));
  }

  async #keepAll(records: readonly LogRecord[]): Promise<void> {
    for (const record of records) {
      try {
        await this.#keep(record);
        this.#consumer?.acknowledge([record]);
      } catch (error) {
        if (this.#stopped) return;
        this.#deps.logger.error({ err: error, position: record.position }, 'a dead letter could not be reported');
      }
    }
  }

  async #keep(record: LogRecord): Promise<void> {
    const { inbox, now, logger, whileUnavailable, tellSender } = this.#deps;
    const { event, position, payload } = record;
    const row = { userId: DEAD_LETTERS_USER, deviceId: DEAD_LETTERS_DEVICE, position, payload };
    try {
      await whileUnavailable(() => inbox.append([row], now()));
    } catch (error) {
      if (this.#stopped) throw error;
      // Its sender has to hear of it all the same.
      logger.error({ err: error, position }, 'a dead letter cannot be kept for an operator');
    }
    // Where it stood: earlier versions did not say.
    if (tellsSender(event)) await tellSender(event, event.givenUp?.position ?? position);
  }
}

/** Whether its sender knows that it was given up. */
export function senderKnows({ kind }: LogEvent): boolean {
  return kind.case === 'message' && !kind.value.copy;
}

/** Whether its sender has to be told that it is given up: of what an operator had handled again, nobody is told twice. */
export function tellsSender(event: LogEvent): boolean {
  return senderKnows(event) && !event.redriven;
}

function again(event: LogEvent): LogEvent {
  const { givenUp: _, ...rest } = event;
  return { ...rest, redriven: true };
}

/** The text of the same width that stands right before a position. */
export function before(position: Position): Position {
  return position.slice(0, -1) + String.fromCharCode(position.charCodeAt(position.length - 1) - 1);
}

function idsOf(letters: readonly DeadLetter[]): Position[] {
  return letters.map(({ id }) => id);
}
