import { create } from '@bufbuild/protobuf';
import { MessageStatus, type ReceiptUpdate, ReceiptUpdateSchema } from '@chatmesh/gen/chat/v1/frames';
import type { Push, RouteResponse, Submit, SubmitResult } from '@chatmesh/gen/chat/v1/router';
import { SubmitWire } from '@chatmesh/gen/wire/chat/v1/router';
import { type Logger, MeshError, type MeshTls, type Traces } from '@chatmesh/mesh';
import { CLOSE } from '../domain/close-codes.js';
import type { ClientAction } from '../domain/frames.js';
import { PushedEvent, RECEIPT } from '../domain/pushed-event.js';
import { RouterPool } from '../routing/router-pool.js';
import type { RouterListener, RouterStream, SubmitAnswer, UntakenConfirmation } from '../routing/router-stream.js';
import { AckedReceipts } from './acked-receipts.js';
import { type ClientSink, type Identity, Session } from './session.js';

/** Told of every session that begins or ends. */
export interface SessionObserver {
  opened(session: Session): void;
  closed(session: Session): void;
}

/** Checks a token that a client sends over its open connection. */
export type TokenCheck = (token: string) => Promise<Identity>;

export interface SessionTableDeps {
  readonly edgeId: string;
  readonly routers: readonly string[];
  readonly logger: Logger;
  readonly tls?: MeshTls | undefined;
  readonly traces?: Traces | undefined;
  readonly now: () => number;
  readonly checkToken: TokenCheck;
  readonly observer: SessionObserver;
}

const TICK_MS = 1_000;
const PING_EVERY_TICKS = 25;
const SILENT_MS = 60_000;
/** A session that no router has attached is announced again after this long. */
const REOPEN_MS = 5_000;
const MAX_UNANSWERED = 256;
/**
 * Messages that this edge has handed to routers and that have no answer yet. With more, a sender is not read while it has
 * more than its share: what waits in the kernel's buffers costs nothing. The others are read, for behind a message stand
 * confirmations, which are what makes room.
 */
const MAX_IN_FLIGHT = 2_048;
/** The share; so many messages a sender is expected to bring when it is read again. */
const BURST = 32;
/**
 * Ids that a device has confirmed and that no router has dealt with. Twice as many as a router takes while its stores are away
 * (SETTLING_WINDOW), so that only a client is held up that confirms more than it was sent.
 */
const MAX_CONFIRMING = 4_096;
/** Ids that ended sessions have confirmed, some 200 bytes each. */
const MAX_LATE_IDS = 131_072;
const MAX_REFUSED = 10;
/** Above this the client is not read until it has taken what it was sent; far above it, it is closed. */
const HIGH_WATER_BYTES = 1024 * 1024;
const MAX_BUFFERED_BYTES = 16 * 1024 * 1024;

/** What a device confirmed through a session that has ended. */
interface LateConfirmation {
  readonly userId: string;
  readonly deviceId: string;
  readonly eventIds: string[];
  readonly receipts: ReceiptUpdate[];
}

/** All sessions of this edge, and the streams to the routers behind them. */
export class SessionTable implements RouterListener {
  readonly #deps: SessionTableDeps;
  readonly #sessions = new Map<number, Session>();
  /** The sessions of a user; most have one. */
  readonly #byUser = new Map<string, Session | Session[]>();
  /** The routers behind the sessions. */
  readonly routers: RouterPool;
  #nextNumber = 1;
  #inFlight = 0;
  /** Sessions that are not read because too much is in flight, in the order in which they are read again. */
  #held: Session[] = [];
  /** Receipts that clients have. */
  readonly acked = new AckedReceipts();
  /** The event that is being passed on: one after the other, in the same memory. */
  readonly #pushed = new PushedEvent();
  /** What has happened since the start. */
  readonly counts = { sends: 0, confirmations: 0, otherFrames: 0, refusals: 0, events: 0, opened: 0 };
  /** How many sessions were closed by this edge, by close code. */
  readonly closed = new Map<number, number>();
  /** Called with each answer to a message: the seconds since it came. */
  onAnswered: (seconds: number) => void = () => {};
  #tick = 0;
  #timer: NodeJS.Timeout | undefined;
  #draining = false;
  /** Confirmations of ended sessions that no router has taken yet, and those of them that are being passed on. */
  readonly #late = new Set<LateConfirmation>();
  readonly #passing = new Set<LateConfirmation>();
  #lateIds = 0;

  constructor(deps: SessionTableDeps) {
    this.#deps = deps;
    this.routers = new RouterPool(deps.routers, {
      edgeId: deps.edgeId,
      listener: this,
      logger: deps.logger,
      tls: deps.tls,
    });
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Messages handed to routers that have no answer yet. */
  get inFlight(): number {
    return this.#inFlight;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** True when some router can be reached. */
  get routed(): boolean {
    return this.routers.routed;
  }

  /** Every open session, for presence. */
  all(): IterableIterator<Session> {
    return this.#sessions.values();
  }

  start(): void {
    this.routers.start();
    this.#timer = setInterval(() => this.#onTick(), TICK_MS).unref();
  }

  /** How many sessions a user has here. */
  countOf(userId: string): number {
    return this.of(userId).length;
  }

  of(userId: string): readonly Session[] {
    const sessions = this.#byUser.get(userId);
    if (!sessions) return [];
    return Array.isArray(sessions) ? sessions : [sessions];
  }

  /** Begins a session; an older one of the same device is closed with 4409. */
  open(identity: Identity, sink: ClientSink): Session {
    const session = new Session(this.#nextNumber++, identity, sink, this.#deps.now());
    for (const other of this.of(identity.userId)) {
      if (other.deviceId === identity.deviceId)
        this.close(other, CLOSE.replaced, 'replaced by a newer connection of the same device');
    }
    this.counts.opened++;
    this.#sessions.set(session.number, session);
    const others = this.of(identity.userId);
    this.#byUser.set(identity.userId, others.length === 0 ? session : [...others, session]);
    this.#announce(session, false);
    this.#deps.observer.opened(session);
    return session;
  }

  /** Ends a session with a close code. */
  close(session: Session, code: number, reason: string): void {
    if (session.closed) return;
    this.closed.set(code, (this.closed.get(code) ?? 0) + 1);
    session.sink.close(code, reason);
    this.ended(session);
  }

  /** A session's connection is gone. */
  ended(session: Session): void {
    if (session.closed) return;
    session.closed = true;
    this.#sessions.delete(session.number);
    const rest = this.of(session.userId).filter((other) => other !== session);
    if (rest.length === 0) this.#byUser.delete(session.userId);
    else this.#byUser.set(session.userId, rest.length === 1 ? (rest[0] as Session) : rest);
    if (session.owner) session.owner.closeSession(session);
    else for (const { status, ids } of session.kept ?? []) this.#confirmElsewhere(session, status, ids);
    session.owner = undefined;
    session.kept = undefined;
    this.#deps.observer.closed(session);
  }

  /** Carries out what a client asks for. The client was heard of. */
  act(session: Session, action: ClientAction): void {
    session.refused = 0;
    switch (action.kind) {
      case 'send':
        this.counts.sends++;
        this.#send(session, action);
        return;
      case 'confirm':
        this.counts.confirmations++;
        this.#confirm(session, action.status, action.ids);
        return;
      case 'auth':
        this.counts.otherFrames++;
        void this.#renew(session, action.token);
        return;
      default:
        this.counts.otherFrames++;
        this.refuse(session, new MeshError('unimplemented', `${action.kind} is not available yet`), '');
    }
  }

  /** Answers a frame with an error; ten in a row close the connection. */
  refuse(session: Session, error: MeshError, clientMessageId: string): void {
    this.counts.refusals++;
    session.sink.error(error, clientMessageId);
    if (error.kind === 'invalid_argument' && ++session.refused >= MAX_REFUSED)
      this.close(session, CLOSE.policy, 'too many bad frames');
  }

  /** Hands a message to the router that accepts for its sender; if that one goes or leaves, once to another one. */
  submit(submit: Submit, answer: SubmitAnswer): void {
    const router = this.routers.of(submit.senderId);
    this.#submit(router, submit, (result) => {
      const next = this.#instead(router, submit.senderId, result);
      if (next) next.submit(submit, answer);
      else answer(result);
    });
  }

  /** Whom to ask again when a router has gone before it answered, or leaves: an accepted message is known by its id. */
  #instead(
    gone: RouterStream | undefined,
    senderId: string,
    result: SubmitResult | MeshError,
  ): RouterStream | undefined {
    const refused = result instanceof MeshError || (gone?.leaving && result.refusal?.code === 'unavailable');
    if (!refused || !gone) return undefined;
    const next = this.routers.of(senderId);
    return next === gone ? undefined : next;
  }

  #submit(router: RouterStream | undefined, submit: Submit, answer: SubmitAnswer): void {
    const { traces } = this.#deps;
    const told = traces?.sample() ? follow(traces, submit, answer) : answer;
    if (router) router.submit(submit, told);
    else told(new MeshError('unavailable', 'not accepted: no router can be reached, send again'));
  }

  /** Tells every client to go elsewhere and waits until what they sent is answered; then closes them. */
  async drain(deadlineMs: number): Promise<void> {
    this.#draining = true;
    const until = this.#deps.now() + deadlineMs;
    for (const session of this.#sessions.values()) session.sink.goingAway(Math.floor(Math.random() * 5_000));
    await this.#settled(until);
    for (const session of [...this.#sessions.values()]) this.close(session, CLOSE.goingAway, 'draining');
    await this.#settled(until);
  }

  stop(): void {
    clearInterval(this.#timer);
    this.routers.stop();
  }

  // What routers say.

  connected(stream: RouterStream): void {
    for (const session of this.#sessions.values()) {
      if (!session.owner && (!session.announced || this.routers.of(session.userId) === stream))
        this.#announce(session, session.announced);
    }
  }

  disconnected(stream: RouterStream, untaken: UntakenConfirmation[]): void {
    const orphans: Session[] = [];
    for (const session of this.#sessions.values()) {
      if (session.owner !== stream) continue;
      session.owner = undefined;
      orphans.push(session);
    }
    for (const { session, status, ids } of untaken) {
      if (session.closed) this.#confirmElsewhere(session, status, ids);
      else this.#keep(session, status, ids);
    }
    for (const session of orphans) this.#announce(session, true);
  }

  dealtWith(session: Session): void {
    if (session.paused) this.#relieve(session);
  }

  response(stream: RouterStream, response: RouteResponse): void {
    this.#release();
    if (response.released.length > 0) this.#released(stream, response.released);
    if (response.attach.length > 0) this.#takeOver(stream, response.attach);
    for (const push of response.pushes) {
      if (push.caughtUp) for (const number of push.sessions) this.#push(stream, number, undefined);
      for (const event of push.events) this.#pushEvent(stream, push, this.#pushed.read(event));
    }
    for (const { session: number, serverMessageIds } of response.refused) {
      const session = this.#sessions.get(number);
      if (session)
        this.refuse(session, new MeshError('not_found', `not sent to this user: ${serverMessageIds.join(', ')}`), '');
    }
    for (const { session: number, code, reason } of response.close) {
      const session = this.#sessions.get(number);
      if (!session) continue;
      if (session.owner === stream) session.owner = undefined;
      this.close(session, code, reason);
    }
  }

  /** A router has lost sessions to another one. */
  #released(stream: RouterStream, numbers: readonly number[]): void {
    const released = new Set<Session>();
    for (const number of numbers) {
      const session = this.#sessions.get(number);
      if (session?.owner === stream) released.add(session);
    }
    this.#orphan(stream, released);
    for (const session of released) this.#announce(session, true);
  }

  /** A router takes sessions, from others that may not know yet. */
  #takeOver(stream: RouterStream, attaches: RouteResponse['attach']): void {
    const byOwner = new Map<RouterStream, Set<Session>>();
    for (const { session: number } of attaches) {
      const session = this.#sessions.get(number);
      if (!session?.owner || session.owner === stream) continue;
      const taken = byOwner.get(session.owner);
      if (taken) taken.add(session);
      else byOwner.set(session.owner, new Set([session]));
    }
    for (const [owner, sessions] of byOwner) {
      this.#orphan(owner, sessions);
      for (const { number } of sessions) owner.attachResult(number, false);
    }
    for (const { session: number, withoutOpening } of attaches) this.#attach(stream, number, withoutOpening);
  }

  /** What the sessions confirmed to an owner that may have lost them is for the next one. */
  #orphan(owner: RouterStream, sessions: ReadonlySet<Session>): void {
    for (const session of sessions) session.owner = undefined;
    for (const { session, status, ids } of owner.takeBack(sessions)) this.#keep(session, status, ids);
  }

  #attach(stream: RouterStream, number: number, withoutOpening: boolean): void {
    const session = this.#sessions.get(number);
    if (!session) {
      stream.attachResult(number, false);
      return;
    }
    session.owner = stream;
    const { kept } = session;
    session.kept = undefined;
    // Confirmations stand before attach results in a frame: the owner hears of them before it sends anything.
    for (const { status, ids } of kept ?? []) stream.confirm(session, status, ids);
    stream.attachResult(number, true);
    if (withoutOpening && !session.caughtUp) this.#announce(session, true);
    if (session.paused) this.#relieve(session);
  }

  #push(stream: RouterStream, number: number, event: PushedEvent | undefined): void {
    const session = this.#sessions.get(number);
    if (!session) return;
    if (session.owner !== stream) {
      // A router that has lost the session must let go of it.
      stream.attachResult(number, false);
      return;
    }
    if (!event) {
      if (session.caughtUp) return;
      session.caughtUp = true;
      session.sink.caughtUp();
    } else if (event.kind === 'receipt' && this.acked.pushed(event.text(RECEIPT.eventId), number)) {
      session.confirming++;
      stream.confirm(session, MessageStatus.UNSPECIFIED, [event.text(RECEIPT.eventId)]);
    } else {
      this.counts.events++;
      session.sink.event(event);
    }
    this.#watch(session);
  }

  #pushEvent(stream: RouterStream, { sessions, traceparent }: Push, event: PushedEvent): void {
    const span =
      traceparent === ''
        ? undefined
        : this.#deps.traces?.begin('edge.transmit', {
            parent: traceparent,
            attributes: { 'chatmesh.event': event.kind ?? '' },
          });
    for (const number of sessions) this.#push(stream, number, event);
    span?.end();
  }

  /** A client that does not read costs a bounded amount: first it is not read, then it is closed. */
  #watch(session: Session): void {
    const buffered = session.sink.bufferedBytes;
    if (buffered > MAX_BUFFERED_BYTES) this.close(session, CLOSE.overloaded, 'the client does not read');
    else if (buffered > HIGH_WATER_BYTES) this.#pause(session);
  }

  #pause(session: Session): void {
    if (session.paused) return;
    session.paused = true;
    session.sink.pause(true);
  }

  /** Reads as many held senders again as there is room for what they may bring. */
  #release(): void {
    const room = Math.floor((MAX_IN_FLIGHT - this.#inFlight) / BURST);
    if (room <= 0 || this.#held.length === 0) return;
    for (const session of this.#held.splice(0, room)) {
      session.held = false;
      if (!session.closed) this.#relieve(session);
    }
  }

  #relieve(session: Session): void {
    if (session.held) return;
    if (session.unanswered > MAX_UNANSWERED / 2 || session.sink.bufferedBytes > HIGH_WATER_BYTES) return;
    if (session.confirming > MAX_CONFIRMING / 2) return;
    session.paused = false;
    session.sink.pause(false);
  }

  #send(session: Session, action: Extract<ClientAction, { kind: 'send' }>): void {
    const { clientMessageId } = action;
    if (action.senderId !== session.userId) {
      this.refuse(
        session,
        new MeshError('permission_denied', 'sender_id is not the user of the token'),
        clientMessageId,
      );
      return;
    }
    session.unanswered++;
    if (++this.#inFlight > MAX_IN_FLIGHT && session.unanswered > BURST && !session.held) {
      session.held = true;
      this.#held.push(session);
      this.#pause(session);
    }
    if (session.unanswered >= MAX_UNANSWERED) this.#pause(session);
    // What is on its way through one router must not be overtaken through another.
    const router = session.unanswered > 1 && session.via?.connected ? session.via : this.routers.of(session.userId);
    session.via = router;
    const sentAtMs = performance.now();
    let again = false;
    const answer: SubmitAnswer = (result) => {
      const next = again || session.closed ? undefined : this.#instead(router, session.userId, result);
      if (next) {
        again = true;
        session.via = next;
        next.submit(submitOf(action, session.deviceId), answer);
        return;
      }
      this.#inFlight--;
      session.unanswered--;
      this.onAnswered((performance.now() - sentAtMs) / 1000);
      if (session.closed) return;
      if (result instanceof MeshError) session.sink.error(result, clientMessageId);
      else if (result.refusal) session.sink.error(refusalError(result.refusal), clientMessageId);
      else {
        session.sink.accepted(
          clientMessageId,
          result.serverMessageId,
          Number(result.acceptedAtMs),
          result.deduplicated,
        );
        if (result.receiptEvent.length > 0) session.sink.event(this.#pushed.read(result.receiptEvent));
      }
      if (session.paused) this.#relieve(session);
      this.#watch(session);
    };
    this.#submit(router, submitOf(action, session.deviceId), answer);
  }

  #confirm(session: Session, status: MessageStatus, ids: string[]): void {
    if (status === MessageStatus.UNSPECIFIED) this.acked.acked(ids, session.number);
    session.confirming += ids.length;
    if (session.confirming >= MAX_CONFIRMING) this.#pause(session);
    if (session.owner) session.owner.confirm(session, status, ids);
    else this.#keep(session, status, ids);
  }

  #keep(session: Session, status: MessageStatus, ids: string[]): void {
    session.kept ??= [];
    session.kept.push({ status, ids });
  }

  /** Passes on what a session that has ended confirmed, by a call; while no router answers it waits for one. */
  #confirmElsewhere(session: Session, status: MessageStatus, ids: string[]): void {
    const { userId, deviceId } = session;
    const isAck = status === MessageStatus.UNSPECIFIED;
    const receipts = isAck ? [] : [create(ReceiptUpdateSchema, { status, serverMessageIds: ids })];
    const confirmation: LateConfirmation = { userId, deviceId, eventIds: isAck ? ids : [], receipts };
    if (this.#lateIds + ids.length > MAX_LATE_IDS) {
      this.#deps.logger.warn('too many confirmations of ended sessions wait for a router; their events are sent again');
      return;
    }
    this.#late.add(confirmation);
    this.#lateIds += ids.length;
    this.#passOn(confirmation);
  }

  #passOn(confirmation: LateConfirmation): void {
    this.#passing.add(confirmation);
    this.routers
      .call(confirmation.userId, (router) => router.confirm(confirmation))
      .then(
        () => this.#passedOn(confirmation),
        (error: MeshError) => {
          if (error.kind === 'unavailable') return;
          this.#passedOn(confirmation);
          this.#deps.logger.warn({ err: error }, 'a confirmation of an ended session was refused');
        },
      )
      .finally(() => this.#passing.delete(confirmation));
  }

  #passedOn(confirmation: LateConfirmation): void {
    this.#late.delete(confirmation);
    const { eventIds, receipts } = confirmation;
    this.#lateIds -= receipts.reduce((sum, { serverMessageIds }) => sum + serverMessageIds.length, eventIds.length);
  }

  async #renew(session: Session, token: string): Promise<void> {
    try {
      const identity = await this.#deps.checkToken(token);
      if (identity.userId !== session.userId || identity.deviceId !== session.deviceId) {
        throw new MeshError('permission_denied', 'the token is for another user or device');
      }
      session.expiresAtMs = identity.expiresAtMs;
    } catch (error) {
      if (!session.closed)
        this.refuse(
          session,
          error instanceof MeshError ? error : new MeshError('unauthenticated', 'the token is not valid'),
          '',
        );
    }
  }

  #announce(session: Session, reopened: boolean): void {
    session.openedAtMs = this.#deps.now();
    const router = this.routers.of(session.userId);
    if (!router) return;
    session.announced = true;
    router.open(session, reopened);
  }

  #onTick(): void {
    this.#tick++;
    const nowMs = this.#deps.now();
    for (const confirmation of this.#late) if (!this.#passing.has(confirmation)) this.#passOn(confirmation);
    for (const session of this.#sessions.values()) {
      if (nowMs >= session.expiresAtMs) this.close(session, CLOSE.tokenExpired, 'the token has expired');
      else if (nowMs - session.lastHeardAtMs >= SILENT_MS) this.close(session, CLOSE.silent, 'no heartbeat');
      else {
        if ((session.number + this.#tick) % PING_EVERY_TICKS === 0) session.sink.ping();
        if (!session.owner && nowMs - session.openedAtMs >= REOPEN_MS) this.#announce(session, session.announced);
        if (session.paused) this.#relieve(session);
      }
    }
  }

  async #settled(untilMs: number): Promise<void> {
    while (!(this.routers.settled && this.#late.size === 0) && this.#deps.now() < untilMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Makes a message's first step, and returns the answer that ends it. */
function follow(traces: Traces, submit: Submit, answer: SubmitAnswer): SubmitAnswer {
  const span = traces.begin('edge.receive', { parent: '' });
  submit.traceparent = span.traceparent;
  return (result) => {
    answer(result);
    const refusal = result instanceof MeshError ? result.kind : result.refusal?.code;
    if (result instanceof MeshError || refusal !== undefined) span.end({ 'chatmesh.result': refusal ?? '' }, refusal);
    else span.end({ 'chatmesh.server_message_id': result.serverMessageId });
  };
}

/** A submit of a session's device. */
export function submitOf(action: Extract<ClientAction, { kind: 'send' }>, deviceId: string): Submit {
  const submit = SubmitWire.create();
  submit.senderId = action.senderId;
  submit.senderDeviceId = deviceId;
  submit.receiverId = action.receiverId;
  submit.groupId = action.groupId;
  submit.clientMessageId = action.clientMessageId;
  submit.payload = action.payload as Uint8Array<ArrayBuffer>;
  submit.sealed = action.sealed;
  submit.receivedAtMs = BigInt(Date.now());
  return submit;
}

/** A router's refusal as the error that the client is told. */
export function refusalError(refusal: { code: string; message: string; retryAfterMs: number }): MeshError {
  const options = refusal.retryAfterMs > 0 ? { retryAfterMs: refusal.retryAfterMs } : {};
  return new MeshError(refusal.code as MeshError['kind'], refusal.message, options);
}
