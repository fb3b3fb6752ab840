import { create } from '@bufbuild/protobuf';
import { MessageStatus, type ReceiptUpdate, ReceiptUpdateSchema } from '@chatmesh/gen/chat/v1/frames';
import type { Push, RouteResponse, Submit, SubmitResult } from '@chatmesh/gen/chat/v1/router';
import { SubmitWire } from '@chatmesh/gen/wire/chat/v1/router';
import { type Logger, MeshError, type MeshTls, monotonicMs, type Traces, type WallClock } from '@chatmesh/mesh';
import { isBadFrame, MAX_BAD_FRAMES } from '../domain/bad-frames.js';
import { CLOSE } from '../domain/close-codes.js';
import { type ClientAction, MAX_IDS } from '../domain/frames.js';
import { PushedEvent, RECEIPT } from '../domain/pushed-event.js';
import { SessionWheel, TURN_MS } from '../domain/session-wheel.js';
import { RouterPool, type RouterPoolOptions } from '../routing/router-pool.js';
import type { RouterListener, RouterStream, SubmitAnswer, UntakenConfirmation } from '../routing/router-stream.js';
import { AckedReceipts } from './acked-receipts.js';
import { Inflow } from './inflow.js';
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
  readonly now: WallClock;
  readonly turnMs?: number | undefined;
  readonly clientsOf?: RouterPoolOptions['clientsOf'];
  readonly checkToken: TokenCheck;
  readonly observer: SessionObserver;
}

/** A session that no router has attached is announced again after this long. */
const REOPEN_MS = 5_000;
/** Ids that ended sessions have confirmed, some 200 bytes each. */
const MAX_LATE_IDS = 131_072;

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
  readonly #sessions = new SessionWheel<Session>({
    expired: (session) => this.close(session, CLOSE.tokenExpired, 'the token has expired'),
    silent: (session) => this.close(session, CLOSE.silent, 'no heartbeat'),
  });
  /** Sessions that were announced, or could not be, and that no router has attached yet: in that order. */
  readonly #unattached = new Set<Session>();
  readonly #inflow = new Inflow((session) => this.close(session, CLOSE.overloaded, 'the client does not read'));
  /** The sessions of a user; most have one. */
  readonly #byUser = new Map<string, Session | Session[]>();
  /** The routers behind the sessions. */
  readonly routers: RouterPool;
  #nextNumber = 1;
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
      clientsOf: deps.clientsOf,
    });
  }

  get size(): number {
    return this.#sessions.size;
  }

  /** Messages handed to routers that have no answer yet. */
  get inFlight(): number {
    return this.#inflow.inFlight;
  }

  /** Sessions that are not read. */
  get paused(): number {
    return this.#inflow.paused;
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** True when some router can be reached. */
  get routed(): boolean {
    return this.routers.routed;
  }

  /** Every open session, for presence. */
  all(): Iterable<Session> {
    return this.#sessions;
  }

  start(): void {
    this.routers.start();
    // Timers come first when the process has stood still; what has come meanwhile is read before the sessions are looked at.
    const turn = () => setImmediate(() => this.#onTurn());
    this.#timer = setInterval(turn, this.#deps.turnMs ?? TURN_MS).unref();
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
    const session = new Session(this.#nextNumber++, identity, sink);
    for (const other of this.of(identity.userId)) {
      if (other.deviceId === identity.deviceId)
        this.close(other, CLOSE.replaced, 'replaced by a newer connection of the same device');
    }
    this.counts.opened++;
    this.#sessions.add(session, this.#deps.now());
    const others = this.of(identity.userId);
    this.#byUser.set(identity.userId, others.length === 0 ? session : [...others, session]);
    this.#announce(session);
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

  /** Ends the sessions whose tokens were signed by a key that is withdrawn. */
  closeWithdrawn(): void {
    for (const session of [...this.#sessions])
      if (session.signedBy?.withdrawn) this.close(session, CLOSE.tokenExpired, 'the key of the token was withdrawn');
  }

  /** A session's connection is gone. */
  ended(session: Session): void {
    if (session.closed) return;
    session.closed = true;
    this.#sessions.delete(session);
    this.#unattached.delete(session);
    this.#inflow.ended(session);
    this.#endDetour(session);
    const rest = this.of(session.userId).filter((other) => other !== session);
    if (rest.length === 0) this.#byUser.delete(session.userId);
    else this.#byUser.set(session.userId, rest.length === 1 ? (rest[0] as Session) : rest);
    if (session.owner) session.owner.closeSession(session);
    else for (const { status, ids } of session.kept ?? []) this.#confirmElsewhere(session, status, ids);
    session.owner = undefined;
    session.kept = undefined;
    this.#deps.observer.closed(session);
  }

  /** The client has given a sign of life. */
  heard(session: Session): void {
    session.heardAtTurn = this.#sessions.turns;
  }

  /** Carries out what a client asks for. */
  act(session: Session, action: ClientAction): void {
    switch (action.kind) {
      case 'send':
        session.refused = session.unfounded = 0;
        session.rows++;
        this.counts.sends++;
        this.#send(session, action);
        return;
      case 'confirm':
        session.refused = 0;
        session.rows++;
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

  /** Answers a frame with an error; ten bad frames in a row close the connection. */
  refuse(session: Session, error: MeshError, clientMessageId: string): void {
    this.#tellError(session, error, clientMessageId);
    if (isBadFrame(error.kind, clientMessageId !== '')) this.#count(session, ++session.refused);
  }

  /** The client has taken what it was owed, or a part of that. */
  taken(session: Session): void {
    this.#inflow.look(session);
  }

  #tellError(session: Session, error: MeshError, clientMessageId: string): void {
    this.counts.refusals++;
    session.sink.error(error, clientMessageId);
    this.#inflow.owed(session);
  }

  #count(session: Session, badFrames: number): void {
    if (badFrames >= MAX_BAD_FRAMES) this.close(session, CLOSE.policy, 'too many bad frames');
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
    const until = monotonicMs() + deadlineMs;
    for (const session of this.#sessions) session.sink.goingAway(Math.floor(Math.random() * 5_000));
    await this.#settled(until);
    for (const session of [...this.#sessions]) this.close(session, CLOSE.goingAway, 'draining');
    await this.#settled(until);
  }

  /** Ends at once what a drain has left. */
  stop(): void {
    this.#draining = true;
    for (const session of [...this.#sessions]) this.close(session, CLOSE.goingAway, 'stopping');
    clearInterval(this.#timer);
    this.routers.stop();
  }

  // What routers say.

  connected(stream: RouterStream): void {
    for (const session of this.#sessions) {
      if (!session.owner && (!session.announcedTo || this.routers.of(session.userId) === stream))
        this.#announce(session);
    }
  }

  disconnected(stream: RouterStream, untaken: UntakenConfirmation[]): void {
    const orphans: Session[] = [];
    for (const session of this.#sessions) {
      // What was announced to a router that has gone is announced again, too.
      if ((session.owner ?? session.announcedTo) !== stream) continue;
      session.owner = undefined;
      orphans.push(session);
    }
    for (const { session, status, ids } of untaken) {
      if (session.closed) this.#confirmElsewhere(session, status, ids);
      else this.#keep(session, status, ids);
    }
    for (const session of orphans) this.#announce(session);
  }

  dealtWith(session: Session): void {
    this.#inflow.look(session);
  }

  response(stream: RouterStream, response: RouteResponse): void {
    this.#inflow.release();
    if (response.released.length > 0) this.#released(stream, response.released);
    if (response.attach.length > 0) this.#takeOver(stream, response.attach);
    for (const push of response.pushes) {
      if (push.caughtUp) for (const number of push.sessions) this.#push(stream, number, undefined);
      for (const event of push.events) this.#pushEvent(stream, push, this.#pushed.read(event));
    }
    for (const { session: number, serverMessageIds } of response.refused) {
      const session = this.#sessions.get(number);
      if (session) this.#refuseConfirmation(session, serverMessageIds);
    }
    for (const { session: number, code, reason } of response.close) {
      const session = this.#sessions.get(number);
      if (!session) continue;
      if (session.owner === stream) session.owner = undefined;
      this.close(session, code, reason);
    }
    for (const number of response.wanted) this.#wanted(stream, number);
  }

  /** A router asks for a session that it may own; one that was announced to it and has no owner is on its way there. */
  #wanted(stream: RouterStream, number: number): void {
    const session = this.#sessions.get(number);
    if (!session || (!session.owner && session.announcedTo === stream)) return;
    session.announcedTo = stream;
    stream.open(session);
  }

  /** A frame confirmed what was not sent to the user. */
  #refuseConfirmation(session: Session, serverMessageIds: readonly string[]): void {
    const named = serverMessageIds.slice(0, MAX_IDS).join(', ');
    const more = serverMessageIds.length > MAX_IDS ? ` and ${serverMessageIds.length - MAX_IDS} more` : '';
    this.#tellError(session, new MeshError('not_found', `not sent to this user: ${named}${more}`), '');
    this.#count(session, ++session.unfounded);
  }

  /** A router has lost sessions to another one. */
  #released(stream: RouterStream, numbers: readonly number[]): void {
    const released = new Set<Session>();
    for (const number of numbers) {
      const session = this.#sessions.get(number);
      if (session?.owner === stream) released.add(session);
    }
    this.#orphan(stream, released);
    for (const session of released) this.#announce(session);
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
    for (const { session: number, order } of attaches) this.#attach(stream, number, Number(order));
  }

  /** What the sessions confirmed to an owner that may have lost them is for the next one. */
  #orphan(owner: RouterStream, sessions: ReadonlySet<Session>): void {
    for (const session of sessions) session.owner = undefined;
    for (const { session, status, ids } of owner.takeBack(sessions)) this.#keep(session, status, ids);
  }

  #attach(stream: RouterStream, number: number, order: number): void {
    const session = this.#sessions.get(number);
    if (!session) {
      stream.attachResult(number, false);
      return;
    }
    session.owner = stream;
    this.#unattached.delete(session);
    session.order = order;
    const { kept } = session;
    session.kept = undefined;
    // Confirmations stand before attach results in a frame: the owner hears of them before it sends anything.
    for (const { status, ids } of kept ?? []) stream.confirm(session, status, ids);
    stream.attachResult(number, true);
    this.#inflow.look(session);
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
      session.unfounded = 0;
      session.sink.event(event);
    }
    this.#inflow.owed(session);
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
    this.#inflow.submitted(session);
    const number = ++session.sent;
    const sentAtMs = monotonicMs();
    let router: RouterStream | undefined;
    let again = false;
    const answer: SubmitAnswer = (result) => {
      if (!again && !session.closed && number > session.lastAccepted && this.#instead(router, session.userId, result)) {
        again = true;
        session.detour ??= [];
        session.detour.push({ number, submit, answer });
        this.#endDetour(session);
        return;
      }
      this.#inflow.answered(session);
      this.onAnswered((monotonicMs() - sentAtMs) / 1000);
      session.unfounded = 0;
      if (session.closed) return;
      if (result instanceof MeshError) session.sink.error(result, clientMessageId);
      else if (result.refusal) session.sink.error(refusalError(result.refusal), clientMessageId);
      else {
        session.lastAccepted = Math.max(session.lastAccepted, number);
        session.sink.accepted(
          clientMessageId,
          result.serverMessageId,
          Number(result.acceptedAtMs),
          result.deduplicated,
        );
        if (result.receiptEvent.length > 0) session.sink.event(this.#pushed.read(result.receiptEvent));
      }
      this.#endDetour(session);
      this.#inflow.look(session);
      this.#inflow.owed(session);
    };
    const submit = (to: RouterStream | undefined) => {
      router = to;
      session.via = to;
      this.#submit(to, submitOf(action, session.deviceId), answer);
    };
    if (session.detour) session.detour.push({ number, submit, answer });
    // What is on its way through one router must not be overtaken through another.
    else submit(session.unanswered > 1 && session.via?.connected ? session.via : this.routers.of(session.userId));
  }

  /**
   * Sends on what waits for another router than the one that refused it, once nothing is on its way through that one any more:
   * in the order in which it was sent, and only what the first router has accepted nothing behind.
   */
  #endDetour(session: Session): void {
    const { detour } = session;
    if (!detour || (detour.length < session.unanswered && !session.closed)) return;
    session.detour = undefined;
    const router = session.closed ? undefined : this.routers.of(session.userId);
    for (const { number, submit, answer } of detour.sort((one, other) => one.number - other.number)) {
      if (router && number > session.lastAccepted) submit(router);
      else answer(new MeshError('unavailable', 'not accepted: its router refused it, send again'));
    }
  }

  #confirm(session: Session, status: MessageStatus, ids: string[]): void {
    if (status === MessageStatus.UNSPECIFIED) this.acked.acked(ids, session.number);
    this.#inflow.confirmed(session, ids.length);
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
    if (session.renewing) {
      this.refuse(session, new MeshError('resource_exhausted', 'another token is being checked'), '');
      return;
    }
    session.renewing = true;
    const row = session.rows;
    try {
      const identity = await this.#deps.checkToken(token);
      if (identity.userId !== session.userId || identity.deviceId !== session.deviceId) {
        throw new MeshError('permission_denied', 'the token is for another user or device');
      }
      session.refused = 0;
      session.expiresAtMs = identity.expiresAtMs;
      session.signedBy = identity.signedBy;
      if (!session.closed) this.#sessions.look(session, this.#deps.now());
    } catch (error) {
      const refusal = error instanceof MeshError ? error : new MeshError('unauthenticated', 'the token is not valid');
      if (session.closed) return;
      if (session.rows === row) this.refuse(session, refusal, '');
      // Better frames have come meanwhile.
      else this.#tellError(session, refusal, '');
    } finally {
      session.renewing = false;
    }
  }

  #announce(session: Session): void {
    session.openedAtMs = monotonicMs();
    if (!session.owner) {
      this.#unattached.delete(session);
      this.#unattached.add(session);
    }
    session.announcedTo = this.routers.of(session.userId);
    session.announcedTo?.open(session);
  }

  #onTurn(): void {
    for (const confirmation of this.#late) if (!this.#passing.has(confirmation)) this.#passOn(confirmation);
    this.#sessions.turn(this.#deps.now());
    // Each that is announced again goes to the end, where nothing is due.
    for (const session of this.#unattached) {
      if (monotonicMs() - session.openedAtMs < REOPEN_MS) break;
      this.#announce(session);
    }
  }

  async #settled(untilMs: number): Promise<void> {
    while (!(this.routers.settled && this.#late.size === 0) && monotonicMs() < untilMs) {
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
