import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type ClientFrame, MessageStatus, type ServerFrame, ServerFrameSchema } from '@chatmesh/gen/chat/v1/frames';
import type { MessageEvent } from '@chatmesh/gen/chat/v1/log';
import { MessagePayloadWire } from '@chatmesh/gen/wire/chat/v1/log';
import { Mailbox, MeshError } from '@chatmesh/mesh';
import { streamErrorKind } from '../domain/close-codes.js';
import { type ClientAction, checkContent, encodePayload } from '../domain/frames.js';
import type { PushedEvent } from '../domain/pushed-event.js';
import type { ClientSink } from '../sessions/session.js';

/** What a frame takes beside its texts, roughly. */
const FRAME_BYTES = 256;
/** More than a client may be owed before it is closed: the bytes are what counts. */
const MAX_QUEUED_FRAMES = 128 * 1024;
const CLOSE_TIMEOUT_MS = 2_000;

type FrameInit = MessageInitShape<typeof ServerFrameSchema>['frame'];

/** The server's half of a Connect, gRPC or gRPC-Web stream: frames wait in a bounded mailbox until the client takes them. */
export class StreamSink implements ClientSink {
  readonly #deviceId: string;
  readonly #box = new Mailbox<ServerFrame>({ capacity: MAX_QUEUED_FRAMES });
  #paused: { readonly promise: Promise<void>; readonly resolve: () => void } | undefined;
  readonly #terminate: () => void;
  #bytes = 0;

  /** @param terminate ends the stream, whether its client takes anything or not. */
  constructor(deviceId: string, terminate: () => void) {
    this.#deviceId = deviceId;
    this.#terminate = terminate;
  }

  get bufferedBytes(): number {
    return this.#bytes;
  }

  /** Bytes cannot be seen here: a frame that is taken, or comes, is the sign of life. */
  get receivedBytes(): number {
    return 0;
  }

  /** Frames until the session ends. @throws MeshError the reason of the end, where it is one. */
  async *frames(signal: AbortSignal): AsyncGenerator<ServerFrame> {
    for (;;) {
      const frame = await this.#box.next({ signal });
      if (frame === undefined) return;
      this.#bytes -= weight(frame);
      yield frame;
    }
  }

  /** Resolves when the session takes frames from the client again. */
  async readable(): Promise<void> {
    await this.#paused?.promise;
  }

  accepted(clientMessageId: string, serverMessageId: string, acceptedAtMs: number, deduplicated: boolean): void {
    this.#offer({
      case: 'accepted',
      value: { clientMessageId, serverMessageId, deduplicated, timestamp: timestampFromMs(acceptedAtMs) },
    });
  }

  event(event: PushedEvent): void {
    const { kind } = event.decode();
    if (kind.case === 'message') this.#offer({ case: 'message', value: messageFrame(kind.value, this.#deviceId) });
    else if (kind.case === 'receipt') {
      const { status, atMs, serverMessageId, clientMessageId, eventId, code } = kind.value;
      this.#offer({
        case: 'receipt',
        value: { status, serverMessageId, clientMessageId, eventId, code, timestamp: timestampFromMs(Number(atMs)) },
      });
    }
  }

  error(error: MeshError, clientMessageId: string): void {
    this.#offer({
      case: 'error',
      value: { code: error.kind, message: error.message, retryAfterMs: error.retryAfterMs ?? 0, clientMessageId },
    });
  }

  caughtUp(): void {
    this.#offer({ case: 'caughtUp', value: {} });
  }

  goingAway(reconnectAfterMs: number): void {
    this.#offer({ case: 'goingAway', value: { reconnectAfterMs } });
  }

  ping(): void {
    this.#offer({ case: 'heartbeat', value: {} });
  }

  close(code: number, reason: string): void {
    this.pause(false);
    this.#box.close(new MeshError(streamErrorKind(code), reason));
    // A client that does not take the end must not keep its stream.
    setTimeout(this.#terminate, CLOSE_TIMEOUT_MS).unref();
  }

  pause(paused: boolean): void {
    if (paused) this.#paused ??= gate();
    else {
      this.#paused?.resolve();
      this.#paused = undefined;
    }
  }

  #offer(frame: FrameInit): void {
    const message = create(ServerFrameSchema, { frame } as MessageInitShape<typeof ServerFrameSchema>);
    if (this.#box.offer(message)) this.#bytes += weight(message);
  }
}

function gate(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((r) => {
    resolve = r;
  });
  return { promise, resolve };
}

/** What a client's protobuf frame asks for. Its form was checked by the rules in the contract. @throws MeshError `invalid_argument` */
export function actionOf(frame: ClientFrame): ClientAction {
  const { case: kind, value } = frame.frame;
  switch (kind) {
    case 'send':
      return sendActionOf(value);
    case 'receipt':
      return { kind: 'confirm', status: value.status, ids: value.serverMessageIds };
    case 'ack':
      return { kind: 'confirm', status: MessageStatus.UNSPECIFIED, ids: value.eventIds };
    case 'auth':
      return { kind: 'auth', token: value.token };
    case 'presence':
      return { kind: 'presence' };
    case 'typing':
      return { kind: 'typing' };
    default:
      throw new MeshError('invalid_argument', 'the frame is empty');
  }
}

/** A message as its sender hands it in over a stream or a call. @throws MeshError `invalid_argument` */
export function sendActionOf(
  send: Extract<ClientFrame['frame'], { case: 'send' }>['value'],
): Extract<ClientAction, { kind: 'send' }> {
  const { target, payload } = send;
  if (payload.case === 'content') checkContent(payload.value);
  return {
    kind: 'send',
    senderId: send.senderId,
    receiverId: target.case === 'receiverId' ? target.value : '',
    groupId: target.case === 'groupId' ? target.value : '',
    clientMessageId: send.clientMessageId,
    payload: encodePayload(payload),
    sealed: payload.case === 'sealed',
  };
}

function messageFrame(message: MessageEvent, deviceId: string): Extract<FrameInit, { case: 'message' }>['value'] {
  const { payload } = MessagePayloadWire.decode(message.payload);
  const header = payload.case === 'sealed' ? payload.value.headers[deviceId] : undefined;
  return {
    senderId: message.senderId,
    receiverId: message.copy ? message.receiverId : '',
    serverMessageId: message.serverMessageId,
    timestamp: timestampFromMs(Number(message.acceptedAtMs)),
    payload:
      payload.case === 'sealed'
        ? {
            case: 'sealed',
            value: { body: payload.value.body, keyId: header?.keyId ?? '', data: header?.data ?? new Uint8Array(0) },
          }
        : payload,
  } as Extract<FrameInit, { case: 'message' }>['value'];
}

/** Roughly what a frame holds in memory. */
function weight({ frame }: ServerFrame): number {
  if (frame.case === 'error') return FRAME_BYTES + frame.value.message.length;
  if (frame.case !== 'message') return FRAME_BYTES;
  const { payload } = frame.value;
  return 2 * FRAME_BYTES + (payload.case === 'content' ? payload.value.length * 2 : (payload.value?.body.length ?? 0));
}
