import { setMaxListeners } from 'node:events';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import type { Confirmation } from '@chatmesh/gen/chat/v1/router';
import {
  ChurnMap,
  ChurnSet,
  inTime,
  type Logger,
  MeshError,
  monotonicMs,
  RecentIds,
  type Span,
  sleep,
  type Traces,
  Turns,
  traceFields,
  type WallClock,
} from '@chatmesh/mesh';
import { confirmationOf, type ReceiptEvent, type ReceiptSubject, receiptOf, traceparentOf } from '../domain/events.js';
import { receiptEventId } from '../domain/ids.js';
import type { InboxRow, InboxStore } from '../stores/inbox-store.js';
import type { LogConsumer, LogRecord, MessageLog, Position } from '../stores/message-log.js';
import { NOTHING_NEW, type StatusAnswer, type StatusRecord, type StatusStore } from '../stores/status-store.js';
import { AwaitedConfirmations } from './awaited-confirmations.js';
import { Damage } from './damage.js';
import { DeadLetters, tellsSender } from './dead-letters.js';
import type { Delivery, Device, Tracked } from './device.js';
import type { CachedDirectory, DirectoryUser } from './directory.js';
import type { EdgeLink } from './edge-link.js';
import { LateConfirmations } from './late-confirmations.js';
import { baseRecord, type Confirmed, type Confirmer, Ledger } from './ledger.js';
import { Recipient } from './recipient.js';

/** A live session, as presence knows it. */
export interface LocatedSession {
  readonly edgeId: string;
  readonly session: number;
  readonly deviceId: string;
}

/** Where a user's sessions are. */
export interface SessionFinder {
  /** @throws MeshError when presence is away: no promise depends on its answer. */
  sessions(userId: string): Promise<LocatedSession[]>;
}

export interface OwnerOptions {
  readonly maxUnacknowledged: number;
  /** How often an unconfirmed event is sent again before its session is closed. */
  readonly deliveryRetries: number;
  /** The wait before the first repeat; it doubles with each. */
  readonly deliveryRetryMs: number;
  /** How long an event stays on the log before it moves to the inbox. */
  readonly maxHoldMs: number;
  /** How often handling of an event is tried before it is given up, and the first wait in between. */
  readonly handlingAttempts: number;
  readonly handlingRetryMs: number;
  /** How long a call waits until what it confirms is recorded. */
  readonly recordWaitMs: number;
}

export const OWNER_DEFAULTS: OwnerOptions = {
  maxUnacknowledged: 10_000,
  deliveryRetries: 3,
  deliveryRetryMs: 10_000,
  maxHoldMs: 2_000,
  handlingAttempts: 10,
  handlingRetryMs: 100,
  recordWaitMs: 3_000,
};

export interface OwnerDeps {
  readonly log: MessageLog;
  readonly deadLetters: MessageLog;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
  readonly directory: CachedDirectory;
  readonly presence: SessionFinder;
  /** When something happens, as users are told: no earlier than any message was accepted. */
  readonly now: WallClock;
  readonly logger: Logger;
  readonly traces?: Traces | undefined;
  readonly options: OwnerOptions;
}

/** Ids, or rows: it takes about a millisecond. */
const LOOKED_UP_PER_TURN = 256;
const SWEEP_MS = 250;
/** After a longer pause of this process the log has to say first which users are still this owner's. */
const STOOD_STILL_MS = 2_000;
const HANDLING_RETRY_MAX_MS = 30_000;
const FORGET_IDLE_MS = 60_000;
/** By then the log has handed out again what a device has acked; if not, the device acks it once more. */
const FORGET_ACKS_MS = 60_000;
/** A status that comes after one of these is not told. */
const OVERRULED_BY: Record<MessageStatus, readonly MessageStatus[]> = {
  [MessageStatus.UNSPECIFIED]: [],
  [MessageStatus.SENT]: [],
  [MessageStatus.DELIVERED]: [MessageStatus.READ, MessageStatus.FAILED],
  [MessageStatus.READ]: [MessageStatus.FAILED],
  [MessageStatus.FAILED]: [MessageStatus.DELIVERED, MessageStatus.READ],
};
/** Events handled of late, by which a second copy is told: a client repeats a send within seconds. */
const SEEN_EVENTS = 100_000;

/**
 * Owns the users whose keys the log hands to this router: one {@link Recipient} per active user. Consumes the log, keeps
 * the timers that all recipients share, and writes through the {@link Ledger}.
 */
export class Owner {
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
  readonly now: WallClock;
  /** Devices with something in their window. */
  readonly unconfirmed = new ChurnSet<Device>();
  readonly #deps: OwnerDeps;
  readonly #ledger: Ledger;
  /** What could not be handled. */
  readonly deadLetters: DeadLetters;
  /** Confirmations of what is not in a window. */
  readonly late = new LateConfirmations(this);
  /** Devices that acked receipts which have not come yet, in the order in which that began, and when it did. */
  readonly #ackedEarly = new ChurnMap<Device, number>();
  /** Calls that wait until a confirmation is recorded. */
  readonly awaited = new AwaitedConfirmations();
  /** Of look-ups of what clients name, who may name anything. */
  readonly turns = new Turns(LOOKED_UP_PER_TURN);
  readonly #damage: Damage;
  readonly #recipients = new Map<string, Recipient>();
  /** The streams of each edge, the one that came last at the end: it has several where an old one ends after a new one has begun. */
  readonly #links = new Map<string, EdgeLink[]>();
  readonly #stop = new AbortController();
  /** Events on the log, oldest first, until they are confirmed or stored. */
  readonly #held = new ChurnSet<Tracked>();
  /** Recipients that had nothing to do, in the order in which that began. */
  readonly #idle = new ChurnSet<Recipient>();
  /** Where messages and receipts, and copies of messages, were handled of late. */
  readonly #seen = new RecentIds(SEEN_EVENTS);
  readonly #seenCopies = new RecentIds(SEEN_EVENTS);
  #consumer: LogConsumer | undefined;
  #timer: NodeJS.Timeout | undefined;
  #sweptAt = monotonicMs();
  #releasing = false;
  /** Called when an event is transmitted, with the time since its acceptance. */
  onTransmitted: (message: NonNullable<Tracked['message']>) => void = () => {};
  /** Called when the first device of a recipient confirms a message: when it was accepted, and when that was. */
  onDelivered: (acceptedAtMs: number, atMs: number) => void = () => {};
  /** Called when a session has been sent everything that waited for it, with how many rows that was. */
  onDrained: (rows: number) => void = () => {};
  /** What has happened since the start. */
  readonly counts = {
    redeliveries: 0,
    unconfirmedSessions: 0,
    refusedConfirmations: 0,
    deadLetters: 0,
    failed: new Map<string, number>(),
  };

  constructor(deps: OwnerDeps) {
    // Whatever waits out an outage listens to it.
    setMaxListeners(0, this.#stop.signal);
    this.#deps = deps;
    this.inbox = deps.inbox;
    this.statuses = deps.statuses;
    this.now = deps.now;
    this.#ledger = new Ledger(
      { log: deps.log, inbox: deps.inbox, statuses: deps.statuses },
      {
        stored: (delivery) => delivery.device.recipient.stored(delivery),
        settled: (delivery) => delivery.device.recipient.settled(delivery),
        unstorable: (delivery, error) => void this.#giveUpStoring(delivery, error),
        unrecordable: (confirmed, error) => this.#recordLater(confirmed, error),
      },
      { now: deps.now, signal: this.#stop.signal },
    );
    this.deadLetters = new DeadLetters({
      ...deps,
      whileUnavailable: (attempt) => this.whileUnavailable(attempt),
      tellSender: (event, position) => this.fail(event, position, 'undeliverable'),
    });
    this.#damage = new Damage({
      ...deps,
      deadLetters: this.deadLetters,
      whileUnavailable: (attempt) => this.whileUnavailable(attempt),
      tellSender: (record) => this.failMessage(record, undefined, 'undeliverable'),
    });
  }

  /** What a moment of the monotonic clock is called: so long before {@link now} as it is ago, whatever the machine's clock was set to since. */
  told(pastMs: number, nowMs = this.now(), passedMs = monotonicMs()): number {
    // Clocks tell whole milliseconds, rounded down: rounded up, what comes later is not told to be earlier.
    return Math.ceil(nowMs - (passedMs - pastMs));
  }

  /** How many users have an actor here. */
  get recipients(): number {
    return this.#recipients.size;
  }

  /** Events that the log has handed out here and that are not done with. */
  get unacknowledged(): number {
    return this.#consumer?.unacknowledged ?? 0;
  }

  /** When the oldest message or receipt that the log has handed out here, and that is not done with, was accepted. */
  get oldestAtMs(): number | undefined {
    return this.#consumer?.oldestAtMs();
  }

  /** Events that were transmitted and are not confirmed. */
  get inFlight(): number {
    let count = 0;
    for (const device of this.unconfirmed) count += device.window.size;
    return count;
  }

  /** Where a user's event is on this router: transmitted to which devices and not confirmed, and whether the log still has it. */
  whereabouts(userId: string, id: string): { transmitted: ReadonlyMap<string, Delivery>; onLog: boolean } {
    return this.#recipients.get(userId)?.whereabouts(id) ?? { transmitted: new Map(), onLog: false };
  }

  /** How long an event takes through the log to its owner, milliseconds, as far as this router can know. */
  get lagMs(): number {
    return this.#consumer?.lagMs() ?? 0;
  }

  /** The tenure in which a user is owned here; undefined where the user has no actor. */
  tenureOf(userId: string): number | undefined {
    return this.#recipients.get(userId)?.tenure;
  }

  /** Whether the log hands a user's events to this router now, as far as it can know. */
  owns(userId: string): boolean {
    return this.#consumer?.owns(userId) ?? false;
  }

  /** The actor of a user, where there is something to do. */
  actor(userId: string): Recipient | undefined {
    return this.#recipients.get(userId);
  }

  /** Joins the log's consumers. */
  async start(): Promise<void> {
    const { log, options } = this.#deps;
    this.#timer = setInterval(() => this.#sweep(), SWEEP_MS).unref();
    this.#consumer = await log.consume((records) => this.#handle(records), {
      maxUnacknowledged: options.maxUnacknowledged,
      lost: (tenure) => this.#lost(tenure),
      damaged: (event) => {
        this.counts.deadLetters++;
        return this.#damage.onLog(event);
      },
    });
    this.#ledger.consumer = this.#consumer;
    await this.deadLetters.start();
  }

  /** Leaves the log's consumers; what is unacknowledged goes to others, or waits. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#consumer?.close();
    await this.deadLetters.stop();
    this.#stop.abort();
  }

  /** Resolves when what was decided so far is durable. */
  async settled(): Promise<void> {
    await this.#ledger.settled();
  }

  /** An edge has connected. */
  addLink(link: EdgeLink): void {
    this.#links.set(link.edgeId, [...(this.#links.get(link.edgeId) ?? []), link]);
    for (const recipient of this.#recipients.values()) recipient.linked(link);
  }

  /** An edge is gone, and its sessions with it. */
  removeLink(link: EdgeLink): void {
    link.close();
    const others = (this.#links.get(link.edgeId) ?? []).filter((other) => other !== link);
    if (others.length > 0) this.#links.set(link.edgeId, others);
    else this.#links.delete(link.edgeId);
    for (const [number, device] of [...link.sessions]) device.recipient.detach(device, link, number);
  }

  /** Has edges send through other routers. */
  leave(): void {
    for (const link of this.#allLinks()) link.leave();
  }

  /** Ends the streams to all edges. */
  endLinks(): void {
    for (const link of this.#allLinks()) link.end();
  }

  link(edgeId: string): EdgeLink | undefined {
    return this.#links.get(edgeId)?.at(-1);
  }

  #allLinks(): EdgeLink[] {
    return [...this.#links.values()].flat();
  }

  /**
   * A device confirms events through a session that this router owns. Resolves when that is durable: recorded, or, where a store
   * refuses it, on the log, from where it is tried again. Rejects only when the owner stops.
   */
  async confirm(link: EdgeLink, confirmations: readonly Confirmation[]): Promise<void> {
    const late: Promise<void>[] = [];
    for (const { session, status, ids, frameSizes } of confirmations) {
      const device = link.sessions.get(session);
      if (!device) continue;
      const confirmer = { userId: device.recipient.userId, deviceId: device.id, status, refused: undefined };
      if (device.recipient.abandoned) {
        late.push(this.#passOn(confirmer, ids));
        continue;
      }
      const waiting = device.recipient.confirm(device, status, ids);
      if (!waiting) continue;
      late.push(
        waiting.then(({ unknown, refused, error }) => {
          if (unknown.length > 0) for (const bad of unknownByFrame(ids, frameSizes, unknown)) link.refuse(session, bad);
          return refused.length > 0 ? this.#confirmLater(confirmer, refused, error) : undefined;
        }),
      );
    }
    if (late.length > 0) await Promise.all(late);
    await this.#ledger.barrier();
  }

  /**
   * Puts what a device has confirmed on the log. Resolves when it is there, and, where this router is the user's owner, when it
   * is recorded.
   *
   * @throws MeshError `unavailable` when that is not certain, or what a store says that refuses it: it is tried again all the same.
   */
  async confirmThroughLog(userId: string, events: readonly LogEvent[]): Promise<void> {
    const { log, options } = this.#deps;
    if (!this.owns(userId)) {
      await log.publish(events);
      return;
    }
    const expected = events.flatMap(({ kind }) =>
      kind.case === 'confirmation' ? [this.awaited.expect(userId, kind.value)] : [],
    );
    try {
      await log.publish(events);
      const all = Promise.all(expected.map(({ recorded }) => recorded));
      const late = () => new MeshError('unavailable', 'not recorded yet, confirm again');
      // Where the user has another owner by then, the log has it for that one.
      const told = await inTime(all, options.recordWaitMs, late).catch((error) => [
        this.owns(userId) ? error : undefined,
      ]);
      const refusal = told.find((error) => error !== undefined);
      if (refusal) throw refusal;
    } finally {
      for (const { forget } of expected) forget();
    }
  }

  /** The log knows who owns the user now. */
  #passOn({ userId, deviceId, status }: Confirmer, ids: readonly string[]): Promise<void> {
    const event = confirmationOf(userId, { deviceId, status, ids });
    return this.whileUnavailable(async () => {
      await this.#deps.log.publish([event]);
    });
  }

  #recordLater({ confirmer, update, delivery }: Confirmed, error: unknown): Promise<void> {
    const id = update?.serverMessageId ?? delivery?.tracked.id ?? '';
    if (!confirmer.refused) return this.#confirmLater(confirmer, [id], error);
    confirmer.refused(id, error);
    return Promise.resolve();
  }

  /** Has confirmations that a store refuses wait on the log, whose records are handled a fixed number of times. */
  async #confirmLater(confirmer: Confirmer, ids: readonly string[], refusal: unknown): Promise<void> {
    const { logger } = this.#deps;
    const told = { userId: confirmer.userId, deviceId: confirmer.deviceId, ids };
    this.counts.refusedConfirmations += ids.length;
    logger.warn({ err: refusal, ...told }, 'confirmations could not be recorded and are tried again');
    try {
      await this.#passOn(confirmer, ids);
    } catch (error) {
      this.whileRunning(error);
      this.counts.deadLetters++;
      logger.error({ err: error, ...told }, 'confirmations are given up');
    }
  }

  // What recipients need.

  /** Not from the cache: a device may have been registered through another router, and its event been handled there. */
  find(userId: string): Promise<DirectoryUser | null> {
    return this.whileUnavailable(() => this.#deps.directory.find(userId));
  }

  /** Where a user has sessions; nowhere while presence is away. */
  async locate(userId: string): Promise<LocatedSession[]> {
    const { presence, logger } = this.#deps;
    try {
      return await presence.sessions(userId);
    } catch (error) {
      logger.warn({ err: error }, 'presence is away; sessions are attached when their edges open them again');
      return [];
    }
  }

  append(delivery: Delivery): void {
    this.#ledger.append(delivery);
  }

  confirmed(confirmed: Confirmed): void {
    this.#ledger.confirm(confirmed);
  }

  acknowledge(record: LogRecord): void {
    this.#ledger.acknowledge(record);
  }

  barrier(): Promise<void> {
    return this.#ledger.barrier();
  }

  whileUnavailable<T>(attempt: () => Promise<T>): Promise<T> {
    return this.#ledger.whileUnavailable(attempt);
  }

  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    return this.#ledger.remove(userId, deviceId, positions);
  }

  /** Gives up a row of an inbox that is damaged. Resolves when it may be removed. */
  damagedRow(row: InboxRow): Promise<void> {
    this.counts.deadLetters++;
    return this.#damage.inInbox(row);
  }

  /** Keeps an eye on an event until the log may forget it. */
  hold(tracked: Tracked): void {
    this.#held.add(tracked);
  }

  /** Lets go of an event that the log has forgotten, or that is another owner's affair. */
  letGo(tracked: Tracked): void {
    this.#held.delete(tracked);
  }

  /** Begins a step of an event that is followed. */
  follow(name: string, { tracked, device, position, row, attempts }: Delivery, startedAtMs?: number): Span | undefined {
    const { message } = tracked;
    return this.#deps.traces?.begin(name, {
      parent: tracked.traceparent,
      attributes: {
        ...(message && { 'chatmesh.server_message_id': message.serverMessageId }),
        'chatmesh.event': message ? (message.copy ? 'copy' : 'message') : 'receipt',
        'chatmesh.device_id': device.id,
        'chatmesh.position': position,
        'chatmesh.from': row === 'none' ? 'log' : 'inbox',
        'chatmesh.repeats': attempts,
      },
      ...(startedAtMs !== undefined && { startedAtMs }),
    });
  }

  transmitted(tracked: Tracked): void {
    if (tracked.message) this.onTransmitted(tracked.message);
  }

  /**
   * Where an earlier copy of the message or receipt was here of late; undefined where none was. Of two copies every owner keeps
   * the same one, the earlier: where keys come back to an owner, the one between must not have dropped what this one relies on.
   */
  seen(id: string, copy: boolean, position: Position): Position | undefined {
    return (copy ? this.#seenCopies : this.#seen).seenBefore(id, position);
  }

  /**
   * Whether a receipt says what cannot follow: another status of its message, that ends or contains this one, came before. Devices
   * of one recipient confirm side by side, and through two owners where the recipient moves.
   */
  contradicts({ serverMessageId, status }: ReceiptEvent, position: Position): boolean {
    return OVERRULED_BY[status].some((other) => {
      const first = this.#seen.find(receiptEventId(serverMessageId, other));
      return first !== undefined && first < position;
    });
  }

  /** A recipient may have become idle. */
  idle(recipient: Recipient): void {
    if (this.#idle.has(recipient) || !recipient.idle) return;
    recipient.idleSinceMs = monotonicMs();
    this.#idle.add(recipient);
  }

  /**
   * The records of messages that a client asks for, in the order asked, some in each turn of the event loop.
   *
   * @throws MeshError `unavailable`
   */
  async recordsForClient(ids: readonly string[]): Promise<StatusAnswer[]> {
    const records: StatusAnswer[] = [];
    for (let at = 0; at < ids.length; at += LOOKED_UP_PER_TURN) {
      const some = ids.slice(at, at + LOOKED_UP_PER_TURN);
      await this.turns.take(some.length);
      records.push(...(await this.statuses.get(some)));
    }
    return records;
  }

  /** The records of messages, in the order asked; one that a store refuses is told of and passes for unknown. */
  async recordsOf(
    ids: readonly string[],
    refused: (id: string, error: unknown) => void,
  ): Promise<readonly StatusAnswer[]> {
    const get = (some: readonly string[]) => this.whileUnavailable(() => this.statuses.get(some));
    try {
      return await get(ids);
    } catch (error) {
      this.whileRunning(error);
    }
    const alone = async (id: string) => {
      try {
        return (await get([id]))[0];
      } catch (error) {
        this.whileRunning(error);
        refused(id, error);
        return undefined;
      }
    };
    return Promise.all(ids.map(alone));
  }

  /** Throws what has failed only because the owner stops: then nothing may be concluded from it. */
  whileRunning(error: unknown): void {
    if (this.#stop.signal.aborted) throw error;
  }

  /** Acks that nothing has come for are forgotten after a while. */
  forgetAcksLater(device: Device): void {
    if (this.#ackedEarly.get(device) === undefined) this.#ackedEarly.set(device, monotonicMs());
  }

  drainFailed(error: unknown): void {
    if (!this.#stop.signal.aborted) this.#deps.logger.error({ err: error }, 'a drain stopped');
  }

  /** Gives a message up and tells its sender, unless that has been told already. */
  async fail(event: LogEvent, position: Position, code: string): Promise<void> {
    const { kind } = event;
    if (kind.case !== 'message' || !tellsSender(event)) return;
    const message = kind.value;
    await this.failMessage(message, () => baseRecord(message, position) as StatusRecord, code);
  }

  async failMessage(subject: ReceiptSubject, base: (() => StatusRecord) | undefined, code: string): Promise<void> {
    const { failed } = this.counts;
    failed.set(code, (failed.get(code) ?? 0) + 1);
    const atMs = this.now();
    const { serverMessageId } = subject;
    try {
      await this.whileUnavailable(() =>
        this.statuses.update([{ ...NOTHING_NEW, serverMessageId, base, failedAtMs: atMs, code }]),
      );
    } catch (error) {
      this.whileRunning(error);
      // Its sender has to hear of it all the same.
      this.#deps.logger.error({ err: error, serverMessageId }, 'that a message failed could not be recorded');
    }
    await this.whileUnavailable(() => this.#deps.log.publish([receiptOf(subject, MessageStatus.FAILED, atMs, code)]));
  }

  /**
   * Tries again to handle a record whose first attempt failed; in the end it becomes a dead letter. Never rejects.
   *
   * @returns false when it is neither handled nor given up: the owner stops, or not even that could be written down.
   */
  async retry(record: LogRecord, attempt: () => Promise<void>, firstError: unknown): Promise<boolean> {
    const { handlingAttempts, handlingRetryMs } = this.#deps.options;
    let error = firstError;
    for (let n = 1; n < handlingAttempts; n++) {
      if (this.#stop.signal.aborted) return false;
      this.#deps.logger.warn(
        { err: error, position: record.position, attempt: n, ...traceFields(traceparentOf(record.event)) },
        'an event could not be handled',
      );
      await this.#pause(Math.min(HANDLING_RETRY_MAX_MS, handlingRetryMs * 2 ** (n - 1)));
      if (this.#stop.signal.aborted) return false;
      try {
        await this.whileUnavailable(attempt);
        return true;
      } catch (again) {
        error = again;
      }
    }
    return this.#bury(record, error);
  }

  /** Gives a record up; false when not even that could be written down. */
  async #bury(record: LogRecord, error: unknown): Promise<boolean> {
    try {
      await this.deadLetters.bury(record, error);
    } catch (refusal) {
      if (this.#stop.signal.aborted) return false;
      this.#deps.logger.error(
        { err: refusal, position: record.position },
        'an event that is given up could not be kept; the log has it until the next start',
      );
      return false;
    }
    this.counts.deadLetters++;
    this.acknowledge(record);
    return true;
  }

  /** Waits, or until the owner stops. */
  async #pause(ms: number): Promise<void> {
    await sleep(ms, { signal: this.#stop.signal }).catch(() => {});
  }

  #handle(records: readonly LogRecord[]): void {
    this.#restore(records);
    for (const record of records) {
      const { userId } = record.event;
      let recipient = this.#recipients.get(userId);
      if (recipient && recipient.tenure !== record.tenure) {
        this.#abandon(recipient);
        recipient = undefined;
      }
      if (!recipient) {
        recipient = new Recipient(this, userId, record.tenure);
        this.#recipients.set(userId, recipient);
        void this.#load(recipient);
      } else this.#idle.delete(recipient);
      recipient.handle(record);
    }
  }

  /** Other owners have the users of a tenure, or will have had them when they come back here. */
  #lost(tenure: number): void {
    for (const recipient of this.#recipients.values()) if (recipient.tenure === tenure) this.#abandon(recipient);
  }

  /** What is known here of a user's inbox and sessions is out of date, and nothing may be done about them. */
  #abandon(recipient: Recipient, giveUp: (record: LogRecord) => void = () => {}): void {
    for (const record of recipient.abandon()) giveUp(record);
    this.#idle.delete(recipient);
    if (this.#recipients.get(recipient.userId) === recipient) this.#recipients.delete(recipient.userId);
  }

  /**
   * Acceptance may have died before it wrote the record: it is written before a repeat of the send can look for it. Not of what may be
   * a second copy: the first one may wait here, and comes first.
   */
  #restore(records: readonly LogRecord[]): void {
    const bases: StatusRecord[] = [];
    for (const { event, mayRepeat, position } of records) {
      const message = mayRepeat && event.kind.case === 'message' ? event.kind.value : undefined;
      const base = message?.mayBeSecond ? undefined : baseRecord(message, position);
      if (base) bases.push(base);
    }
    // The log keeps these events until their recipients have written the records too: a failure here loses nothing.
    if (bases.length > 0) this.statuses.accept(bases).catch(() => {});
  }

  /** Loads what is known of a user. What waits for that is tried as often as any record, and given up with it. */
  async #load(recipient: Recipient): Promise<void> {
    const { handlingAttempts, handlingRetryMs } = this.#deps.options;
    for (let n = 1; !recipient.abandoned; n++) {
      try {
        await this.whileUnavailable(() => recipient.load());
        return;
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        this.#deps.logger.error({ err: error, attempt: n }, 'a recipient could not be loaded');
        if (n < handlingAttempts) await this.#pause(Math.min(HANDLING_RETRY_MAX_MS, handlingRetryMs * 2 ** (n - 1)));
        else {
          this.#abandon(recipient, (record) => void this.#bury(record, error));
          return;
        }
      }
    }
  }

  #sweep(): void {
    const before = this.#sweptAt;
    const nowMs = monotonicMs();
    this.#sweptAt = nowMs;
    if (nowMs - before > STOOD_STILL_MS) return;
    this.#storeHeld(nowMs - this.#deps.options.maxHoldMs);
    for (const device of [...this.unconfirmed]) if (this.owns(device.recipient.userId)) this.#retransmit(device, nowMs);
    void this.#releaseConfirmations(nowMs);
    for (const link of this.#allLinks()) link.tellTime();
    for (const device of this.#ackedEarly.keys()) {
      if ((this.#ackedEarly.get(device) as number) > nowMs - FORGET_ACKS_MS) break;
      this.#ackedEarly.delete(device);
      device.forgetAcks();
    }
    for (const recipient of this.#idle) {
      if (recipient.idleSinceMs > nowMs - FORGET_IDLE_MS) break;
      this.#idle.delete(recipient);
      if (recipient.idle && this.#recipients.get(recipient.userId) === recipient)
        this.#recipients.delete(recipient.userId);
    }
  }

  /**
   * Tells edges which confirmations they may forget: those that no owner will need to hear of again. A device's ack of a
   * receipt lives in the log's acknowledgement, which waits for the other devices until the event moves to their inboxes.
   */
  async #releaseConfirmations(nowMs: number): Promise<void> {
    if (this.#releasing) return;
    const beforeMs = nowMs - this.#deps.options.maxHoldMs - 2 * SWEEP_MS;
    const due: { link: EdgeLink; sequence: number }[] = [];
    for (const link of this.#allLinks()) {
      const sequence = link.recordedBefore(beforeMs);
      if (sequence !== undefined) due.push({ link, sequence });
    }
    if (due.length === 0) return;
    this.#releasing = true;
    try {
      await this.#ledger.flushed();
      for (const { link, sequence } of due) link.forgetThrough(sequence);
    } catch {
      // The edges keep them a little longer; the next sweep tries again.
    } finally {
      this.#releasing = false;
    }
  }

  /** Moves what the log has held for long enough into the inboxes of the devices that have not confirmed it. */
  #storeHeld(olderThanMs: number): void {
    for (const tracked of this.#held) {
      if (tracked.receivedAtMs > olderThanMs) break;
      const { recipient, id } = tracked;
      // Another one may have delivered it by now. When it is certain that there is none, the next sweep stores it.
      if (!this.owns(recipient.userId)) continue;
      this.#held.delete(tracked);
      for (const device of recipient.devices.values()) {
        const delivery = device.window.get(id);
        if (delivery?.row === 'none') recipient.store(delivery);
      }
    }
  }

  /** Sends again what a device has not confirmed; closes its session when that did not help. */
  #retransmit(device: Device, nowMs: number): void {
    const { deliveryRetries, deliveryRetryMs } = this.#deps.options;
    for (const delivery of device.window.values()) {
      const overdue =
        nowMs - delivery.sentAtMs >=
        deliveryRetryMs * (delivery.attempts < deliveryRetries ? 2 ** delivery.attempts : 1);
      if (!overdue) {
        // The window is in order of transmission: what follows is younger, unless repeats have begun.
        if (delivery.attempts === 0) break;
        continue;
      }
      if (delivery.attempts < deliveryRetries) {
        this.counts.redeliveries++;
        device.recipient.retransmit(delivery, nowMs);
        continue;
      }
      const { session } = device;
      if (!session) return;
      this.counts.unconfirmedSessions++;
      device.recipient.detach(device, session.link, session.number);
      session.link.closeSession(session.number, 1008, 'deliveries were not confirmed');
      return;
    }
  }

  async #giveUpStoring(delivery: Delivery, error: MeshError): Promise<void> {
    const { record } = delivery.tracked;
    const { recipient } = delivery.device;
    if (!record) return;
    const { statuses, inbox } = this;
    const done = await this.retry(
      record,
      async () => {
        const base = baseRecord(delivery.tracked.message, delivery.position);
        await inbox.append(
          [
            {
              userId: recipient.userId,
              deviceId: delivery.device.id,
              position: delivery.position,
              payload: delivery.tracked.payload,
            },
          ],
          this.now(),
        );
        if (base) await statuses.accept([base]);
      },
      error,
    );
    if (!done) return;
    delivery.row = 'written';
    recipient.stored(delivery);
  }
}

/** What is unknown of the ids of each of a client's frames, for those frames that have something unknown. */
function unknownByFrame(ids: readonly string[], sizes: readonly number[], unknown: readonly string[]): string[][] {
  const isUnknown = new Set(unknown);
  const frames: string[][] = [];
  let from = 0;
  for (const size of sizes.length > 0 ? sizes : [ids.length]) {
    const bad = [...new Set(ids.slice(from, from + size))].filter((id) => isUnknown.has(id));
    if (bad.length > 0) frames.push(bad);
    from += size;
  }
  return frames;
}
