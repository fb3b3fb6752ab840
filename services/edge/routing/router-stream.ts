import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type {
  Confirmation,
  RouteRequest,
  RouteResponse,
  RouterService,
  Submit,
  SubmitResult,
} from '@chatmesh/gen/chat/v1/router';
import {
  AttachResultWire,
  ConfirmationWire,
  EdgeHelloWire,
  RouteRequestWire,
  SessionOpenedWire,
} from '@chatmesh/gen/wire/chat/v1/router';
import {
  type BidiCall,
  ChurnMap,
  type Client,
  Departure,
  type Logger,
  type MeshClock,
  MeshError,
  monotonicMs,
} from '@chatmesh/mesh';
import { Ejection } from '../domain/ejection.js';
import type { Session } from '../sessions/session.js';

/** Opens streams to one router. */
export type RouterClient = Pick<Client<typeof RouterService>, 'route'> & { close(): void };

/** What a router says, and the end of its stream. */
export interface RouterListener {
  /** The stream is there. */
  connected(stream: RouterStream): void;
  /** The stream is gone, with what the router has not taken. */
  disconnected(stream: RouterStream, untaken: UntakenConfirmation[]): void;
  response(stream: RouterStream, response: RouteResponse): void;
  /** A router has dealt with what a session confirmed. */
  dealtWith(session: Session): void;
}

/** A confirmation whose durability the router has not reported. */
export interface UntakenConfirmation {
  readonly session: Session;
  readonly status: MessageStatus;
  readonly ids: string[];
  /** How many of the ids came with each of the client's frames; undefined for one frame. */
  frameSizes?: number[];
}

/** One as it is kept for seconds: its ids are one text, parted by commas, that the garbage collector copies as a whole. */
interface KeptConfirmation {
  readonly session: Session;
  readonly status: MessageStatus;
  readonly ids: string;
}

/** What went with one frame. */
interface Untaken {
  readonly sequence: number;
  readonly confirmations: KeptConfirmation[];
}

/** Called once: with the router's answer, or with `unavailable` when the stream broke first. */
export type SubmitAnswer = (result: SubmitResult | MeshError) => void;

/** What the frame's field can hold, seven weeks. */
const MAX_AGE_MS = 0xffffffff;
/** Nobody waits for a confirmation: it goes with the next frame, or after this long. */
const CONFIRM_MS = 4;
/** Of a UUID and the comma behind it. */
const ID_LENGTH = 37;
/** So many messages are a part of a window: a drain waits for them. */
const MANY = 32;
/** A router that has not said anything by then is tried again. */
const HELLO_MS = 3_000;
const FIRST_RECONNECT_MS = 50;
/** A router that is back is to be found before the next one goes. */
const LAST_RECONNECT_MS = 500;

/** What goes to the router next. */
interface Outgoing {
  readonly frame: RouteRequest;
  /** What it will confirm, and how many messages are among that. */
  confirmations: UntakenConfirmation[];
  messages: number;
}

/**
 * The edge's stream to one router, reconnecting until it is closed. What one turn of the event loop has to say becomes
 * one frame, and confirmations go along. A confirmation is kept until the router says that it is durable.
 */
export class RouterStream {
  readonly address: string;
  readonly #edgeId: string;
  readonly #client: RouterClient;
  readonly #listener: RouterListener;
  readonly #logger: Logger;
  readonly #clock: MeshClock;
  readonly #answers = new ChurnMap<number, SubmitAnswer>();
  #call: BidiCall<RouteResponse, RouteRequest> | undefined;
  #heard = false;
  readonly #out = new Departure<Outgoing>({
    begin: () => ({ frame: RouteRequestWire.create(), confirmations: [], messages: 0 }),
    depart: (outgoing) => this.#send(outgoing),
    laterMs: CONFIRM_MS,
  });
  #nextRef = 1;
  #sequence = 0;
  #untaken: Untaken[] = [];
  /** Up to here the router has dealt with them. */
  #dealtThrough = 0;
  #reconnectMs = FIRST_RECONNECT_MS;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  readonly #ejection = new Ejection();
  /** True when it is not to be connected again once it ends. */
  retired = false;
  /** True when the router takes no more messages. */
  leaving = false;

  constructor(options: {
    address: string;
    client: RouterClient;
    edgeId: string;
    listener: RouterListener;
    logger: Logger;
    clock: MeshClock;
  }) {
    this.address = options.address;
    this.#edgeId = options.edgeId;
    this.#listener = options.listener;
    this.#logger = options.logger;
    this.#clock = options.clock;
    this.#client = options.client;
  }

  /** True while the router answers. */
  get connected(): boolean {
    return this.#heard && this.#call !== undefined && !this.#call.closed;
  }

  /** True while the router is connected and refuses what others may accept: cut off from an engine, for example. */
  get failing(): boolean {
    return this.#ejection.ejected(performance.now());
  }

  /** Nothing waits for the router's word. */
  get settled(): boolean {
    return this.#answers.size === 0 && this.#untaken.length === 0 && !this.#out.gathered;
  }

  /** Opens the stream and keeps it open. */
  connect(): void {
    if (this.#closed) return;
    const call = this.#client.route();
    this.#call = call;
    this.#heard = false;
    this.leaving = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.#heard) call.end(new MeshError('unavailable', 'the router did not answer'));
    }, HELLO_MS).unref();
    call.onMessage((response) => {
      if (!this.#heard) {
        this.#heard = true;
        this.#reconnectMs = FIRST_RECONNECT_MS;
        if (!this.#clock.hear(Number(response.clockMs)))
          this.#logger.error({ router: this.address }, "a router's clock is more than a day ahead; it is not followed");
        this.#listener.connected(this);
      }
      this.#receive(response);
    });
    call.onClose((error) => this.#lost(call, error));
    const hello = { ...EdgeHelloWire.create(), edgeId: this.#edgeId };
    call.write({ ...RouteRequestWire.create(), hello });
  }

  /** Hands a message to the router. */
  submit(submit: Submit, answer: SubmitAnswer): void {
    if (!this.connected) {
      answer(unavailable());
      return;
    }
    submit.ref = this.#nextRef;
    this.#nextRef = this.#nextRef === 0xffffffff ? 1 : this.#nextRef + 1;
    this.#answers.set(submit.ref, answer);
    this.#out.soon().frame.submits.push(submit);
  }

  /** Announces a session: one that has begun, has no owner, or that this router wants. */
  open(session: Session): void {
    const opened = SessionOpenedWire.create();
    opened.session = session.number;
    opened.userId = session.userId;
    opened.deviceId = session.deviceId;
    if (session.order > 0) opened.order = BigInt(session.order);
    else opened.ageMs = Math.min(MAX_AGE_MS, Math.round(monotonicMs() - session.beganAtMs));
    this.#out.soon().frame.openedSessions.push(opened);
  }

  /** Says that a session has ended. */
  closeSession(session: Session): void {
    this.#out.soon().frame.closedSessions.push(session.number);
  }

  /** Answers an attach. */
  attachResult(session: number, attached: boolean): void {
    const result = AttachResultWire.create();
    result.session = session;
    result.attached = attached;
    this.#out.soon().frame.attachResults.push(result);
  }

  /** Passes on what a session's device has confirmed. */
  confirm(session: Session, status: MessageStatus, ids: string[]): void {
    const outgoing = this.#out.later();
    if (status !== MessageStatus.UNSPECIFIED) outgoing.messages += ids.length;
    if (outgoing.messages >= MANY) this.#out.soon();
    const last = outgoing.confirmations.at(-1);
    if (last && last.session === session && last.status === status) {
      last.frameSizes ??= [last.ids.length];
      last.frameSizes.push(ids.length);
      last.ids.push(...ids);
    } else outgoing.confirmations.push({ session, status, ids: [...ids] });
  }

  /** Takes back what these sessions confirmed and the router has not reported to be durable: it is another router's affair now. */
  takeBack(sessions: ReadonlySet<Session>): UntakenConfirmation[] {
    const theirs = ({ session }: { session: Session }) => sessions.has(session);
    const others = (confirmation: { session: Session }) => !theirs(confirmation);
    const { gathered } = this.#out;
    const back = [
      ...this.#untaken.flatMap(({ sequence, confirmations }) =>
        confirmations.filter(theirs).map((confirmation) => this.#again(sequence, confirmation)),
      ),
      ...(gathered?.confirmations.filter(theirs) ?? []),
    ];
    this.#untaken = this.#untaken.map(({ sequence, confirmations }) => ({
      sequence,
      confirmations: confirmations.filter(others),
    }));
    if (gathered) gathered.confirmations = gathered.confirmations.filter(others);
    return back;
  }

  /** Ends the stream for good. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#out.now();
    this.#call?.end();
    this.#client.close();
  }

  #send({ frame, confirmations }: Outgoing): void {
    if (confirmations.length > 0) {
      frame.sequence = ++this.#sequence;
      this.#untaken.push({ sequence: frame.sequence, confirmations: confirmations.map(kept) });
    }
    if (!this.connected) return;
    frame.confirmations = confirmations.map(wireOf);
    frame.notBeforeMs = BigInt(this.#clock.heardMs);
    this.#call?.write(frame);
  }

  /** What has to be confirmed to another router counts again as not dealt with. */
  #again(sequence: number, { session, status, ids }: KeptConfirmation): UntakenConfirmation {
    if (sequence <= this.#dealtThrough) session.confirming += countOf(ids);
    return { session, status, ids: ids.split(',') };
  }

  #dealWith(through: number): void {
    const next = this.#untaken[0];
    // They are numbered without a gap.
    let i = next ? Math.max(0, this.#dealtThrough + 1 - next.sequence) : 0;
    for (; i < this.#untaken.length; i++) {
      const { sequence, confirmations } = this.#untaken[i] as Untaken;
      if (sequence > through) break;
      for (const { session, ids } of confirmations) {
        session.confirming -= countOf(ids);
        this.#listener.dealtWith(session);
      }
    }
    this.#dealtThrough = through;
  }

  #receive(response: RouteResponse): void {
    if (response.recordedSequence > this.#dealtThrough) this.#dealWith(response.recordedSequence);
    while (this.#untaken[0] && this.#untaken[0].sequence <= response.confirmedSequence) this.#untaken.shift();
    this.#clock.hear(Number(response.clockMs));
    if (response.leaving) this.leaving = true;
    const nowMs = response.submitResults.length > 0 ? performance.now() : 0;
    for (const result of response.submitResults) {
      this.#ejection.note(result.refusal?.code === 'unavailable', nowMs);
      const answer = this.#answers.get(result.ref);
      this.#answers.delete(result.ref);
      answer?.(result);
    }
    this.#listener.response(this, response);
  }

  #lost(call: BidiCall<RouteResponse, RouteRequest>, error: MeshError | undefined): void {
    if (this.#call !== call) return;
    const wasConnected = this.#heard;
    this.#call = undefined;
    this.#heard = false;
    const unsent = this.#out.discard()?.confirmations ?? [];
    const lost = [
      ...this.#untaken.flatMap(({ sequence, confirmations }) =>
        confirmations.map((confirmation) => this.#again(sequence, confirmation)),
      ),
      ...unsent,
    ];
    this.#untaken = [];
    const answers = [...this.#answers.values()];
    this.#answers.clear();
    for (const answer of answers) answer(unavailable());
    if (!this.#closed && wasConnected) {
      if (error)
        this.#logger.warn({ router: this.address, err: error }, 'the stream to a router is gone; connecting again');
      else this.#logger.info({ router: this.address }, 'a router has ended its stream; connecting again');
    }
    this.#listener.disconnected(this, lost);
    if (this.#closed || this.retired) return;
    clearTimeout(this.#timer);
    // Full jitter: edges that lost the same router do not return at the same moment.
    this.#timer = setTimeout(() => this.connect(), Math.random() * this.#reconnectMs).unref();
    this.#reconnectMs = Math.min(LAST_RECONNECT_MS, this.#reconnectMs * 2);
  }
}

function wireOf({ session, status, ids, frameSizes }: UntakenConfirmation): Confirmation {
  const confirmation = ConfirmationWire.create();
  confirmation.session = session.number;
  confirmation.status = status;
  confirmation.ids = ids;
  if (frameSizes) confirmation.frameSizes = frameSizes;
  return confirmation;
}

function kept({ session, status, ids }: UntakenConfirmation): KeptConfirmation {
  return { session, status, ids: ids.join() };
}

function countOf(ids: string): number {
  return (ids.length + 1) / ID_LENGTH;
}

function unavailable(): MeshError {
  return new MeshError('unavailable', 'not accepted: the router is away, send again');
}
