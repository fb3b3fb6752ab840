import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { type Push, type RouteResponse, RouteResponseSchema } from '@chatmesh/gen/chat/v1/router';
import { PushWire, RouteResponseWire } from '@chatmesh/gen/wire/chat/v1/router';
import { Departure, type MeshClock, monotonicMs } from '@chatmesh/mesh';
import type { Device } from './device.js';

/** Where an edge's frames go. */
export interface FrameSink {
  /** Takes one frame; false when the transport holds more than it should. */
  write(frame: RouteResponse): boolean;
  /** Ends the stream after what was written. */
  end(): void;
}

/** An edge passes on the latest time it has heard; where routers' clocks differ, it is to have heard of each. */
const TELL_TIME_MS = 1_000;

/** A receipt goes with the next frame, or after this long. */
const RECEIPT_MS = 4;

/** An edge that has not heard of so many confirmations may hold up those who confirm. */
const TELL_RECORDED_IDS = 512;

/**
 * The router's end of the stream to one edge. What one turn of the event loop has to say to the edge becomes one frame, and
 * receipts go along.
 */
export class EdgeLink {
  readonly edgeId: string;
  /** The sessions of this edge that this router owns, by the edge's number. */
  readonly sessions = new Map<number, Device>();
  readonly #sink: FrameSink;
  readonly #clock: MeshClock;
  readonly #out = new Departure<RouteResponse>({
    begin: () => RouteResponseWire.create(),
    depart: (frame) => this.#flush(frame),
    laterMs: RECEIPT_MS,
  });
  #lastPush: Push | undefined;
  #closed = false;
  #wroteAt = 0;
  /** Sequences whose confirmations are recorded, and when that was. */
  #recorded: { sequence: number; atMs: number }[] = [];
  #recordedSequence = 0;
  /** Ids that were recorded since the edge was told. */
  #untoldIds = 0;

  constructor(edgeId: string, sink: FrameSink, clock: MeshClock) {
    this.edgeId = edgeId;
    this.#sink = sink;
    this.#clock = clock;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Says that the router is there: an edge counts on it from then on. */
  welcome(): void {
    this.#write(RouteResponseWire.create());
  }

  /** Tells the time when there has been nothing else to say for a while. */
  tellTime(): void {
    if (monotonicMs() - this.#wroteAt >= TELL_TIME_MS) this.#out.soon();
  }

  /** Sends an encoded event to a session, at the end of this turn of the event loop or a little later. */
  push(session: number, event: Uint8Array, traceparent: string, when: 'soon' | 'later'): void {
    const last = this.#lastPush;
    if (last && last.traceparent === traceparent) {
      if (last.events.length === 1 && last.events[0] === event) {
        last.sessions.push(session);
        return;
      }
      if (traceparent === '' && last.sessions.length === 1 && last.sessions[0] === session) {
        last.events.push(event as Uint8Array<ArrayBuffer>);
        return;
      }
    }
    const push = PushWire.create();
    push.sessions = [session];
    push.events = [event as Uint8Array<ArrayBuffer>];
    push.traceparent = traceparent;
    this.#out[when]().pushes.push(push);
    this.#lastPush = push;
  }

  /** Tells a session that it is caught up. */
  caughtUp(session: number): void {
    const push = PushWire.create();
    push.sessions = [session];
    push.caughtUp = true;
    this.#out.soon().pushes.push(push);
    this.#lastPush = undefined;
  }

  /** Takes ownership of a session. */
  attach(session: number, device: Device, order: number): void {
    this.sessions.set(session, device);
    this.#add('attach', { session, order: BigInt(order) });
  }

  /** Has the edge announce a session through this stream, whoever owns it so far. */
  want(session: number): void {
    this.#out.soon().wanted.push(session);
  }

  /** Tells the edge that somebody else owns a session's user now. What the device confirms until it is attached there is late. */
  disown(session: number): void {
    const frame = this.#out.soon();
    // The edge takes what is released for older than what is attached.
    frame.attach = frame.attach.filter((attach) => attach.session !== session);
    frame.released.push(session);
  }

  /** Gives a session up without ending it. */
  release(session: number): void {
    this.sessions.delete(session);
  }

  /** Ends a session with a close code of the wire contract. */
  closeSession(session: number, code: number, reason: string): void {
    this.sessions.delete(session);
    this.#add('close', { session, code, reason });
  }

  /** Tells a session that it confirmed messages that were not sent to its user. */
  refuse(session: number, serverMessageIds: string[]): void {
    this.#add('refused', { session, serverMessageIds });
  }

  /** Answers a submit. */
  answer(result: RouteResponse['submitResults'][number]): void {
    this.#out.soon().submitResults.push(result);
  }

  /** Notes that every confirmation up to `sequence` is recorded, the last of them of so many ids. */
  recordedThrough(sequence: number, ids: number): void {
    this.#recorded.push({ sequence, atMs: monotonicMs() });
    this.#recordedSequence = sequence;
    this.#untoldIds += ids;
    if (this.#untoldIds >= TELL_RECORDED_IDS) this.#out.soon();
  }

  /** The last sequence recorded at `beforeMs` of the monotonic clock or earlier that the edge has not been told of. */
  recordedBefore(beforeMs: number): number | undefined {
    return this.#recorded.findLast(({ atMs }) => atMs <= beforeMs)?.sequence;
  }

  /** Tells the edge that it may forget the confirmations up to `sequence`. */
  forgetThrough(sequence: number): void {
    this.#recorded = this.#recorded.filter((recorded) => recorded.sequence > sequence);
    this.#out.soon().confirmedSequence = sequence;
  }

  /** Says that this router takes no more messages. */
  leave(): void {
    this.#out.soon().leaving = true;
  }

  /** Says what is left and ends the stream: the edge goes on elsewhere. */
  end(): void {
    this.#out.now();
    if (!this.#closed) this.#sink.end();
  }

  /** The stream is gone: nothing is sent any more. */
  close(): void {
    this.#closed = true;
    this.#out.discard();
  }

  #add<K extends 'attach' | 'close' | 'refused'>(field: K, init: object): void {
    const part = create(RouteResponseSchema, { [field]: [init] } as MessageInitShape<typeof RouteResponseSchema>);
    (this.#out.soon()[field] as unknown[]).push(...part[field]);
  }

  #flush(frame: RouteResponse): void {
    this.#lastPush = undefined;
    if (!this.#closed) this.#write(frame);
  }

  #write(frame: RouteResponse): void {
    frame.clockMs = BigInt(this.#clock.now());
    frame.recordedSequence = this.#recordedSequence;
    this.#untoldIds = 0;
    this.#wroteAt = monotonicMs();
    this.#sink.write(frame);
  }
}
