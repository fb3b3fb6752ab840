import type { Duplex } from 'node:stream';
import type { DescMessage, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { ClientDuplexStream, ServerDuplexStream } from '@grpc/grpc-js';
import { MeshError, toMeshError } from '../errors.js';
import { decode, encode, MAX_MESSAGE_BYTES, statusOf } from './wire.js';

/**
 * A stream in both directions, the same for server and client. It calls back instead of handing out promises, because
 * those would be the larger part of a message's cost.
 */
export interface BidiCall<In, Out> {
  /** Messages are delivered from now on, in order. A handler that throws ends the call. */
  onMessage(handler: (message: In) => void): void;
  /**
   * Called exactly once, when either side has ended the call or it has failed, and never from within a method of this
   * interface. Without an error the call was ended properly.
   */
  onClose(handler: (error?: MeshError) => void): void;
  /**
   * Sends a message. False when the transport holds more than it should: {@link onDrain} tells when it no longer does.
   * After the end nothing is sent.
   */
  write(message: Out): boolean;
  onDrain(handler: () => void): void;
  /** Holds back incoming messages, and by that the peer. */
  pause(): void;
  resume(): void;
  /**
   * Ends the call after what has been written. At the client the server's last messages still arrive before the close.
   * With an error, the server ends the call by that status; the client cancels it.
   */
  end(error?: MeshError): void;
  /** True from the end on: nothing can be written any more. */
  readonly closed: boolean;
}

/** Bytes handed to the transport and not taken by it yet. */
const HIGH_WATER_BYTES = 1024 * 1024;
const LOW_WATER_BYTES = HIGH_WATER_BYTES / 2;

/**
 * Node's HTTP/2 ends a stream before it resets it: a client that cancels looks like one that has ended, until the reset
 * is there. It follows at once, in the same or the next read.
 */
const RESET_GRACE_MS = 10;

interface Schemas<I extends DescMessage, O extends DescMessage> {
  readonly incoming: I;
  readonly outgoing: O;
}

/** What both sides have in common: messages, backpressure, and a close that happens once. */
abstract class Bidi<I extends DescMessage, O extends DescMessage>
  implements BidiCall<MessageShape<I>, MessageInitShape<O>>
{
  protected readonly stream: Duplex;
  readonly #schemas: Schemas<I, O>;
  #onMessage: ((message: MessageShape<I>) => void) | undefined;
  #onClose: ((error?: MeshError) => void) | undefined;
  #onDrain: (() => void) | undefined;
  #bufferedBytes = 0;
  #blocked = false;
  /** Open; then perhaps ended (nothing more to write); then finished, for ever. */
  #state: 'open' | 'ended' | 'finished' = 'open';
  #result: MeshError | undefined;
  #told = false;

  constructor(stream: Duplex, schemas: Schemas<I, O>) {
    this.stream = stream;
    this.#schemas = schemas;
  }

  get closed(): boolean {
    return this.#state !== 'open';
  }

  protected get finished(): boolean {
    return this.#state === 'finished';
  }

  /** Whether what has arrived will be delivered without anybody's doing. */
  protected get flowing(): boolean {
    return this.stream.readableFlowing === true;
  }

  onMessage(handler: (message: MessageShape<I>) => void): void {
    const attached = this.#onMessage !== undefined;
    this.#onMessage = handler;
    if (!attached) this.stream.on('data', (bytes: Buffer) => this.#receive(bytes));
  }

  onClose(handler: (error?: MeshError) => void): void {
    this.#onClose = handler;
    if (this.finished) queueMicrotask(() => this.#tell());
  }

  write(message: MessageInitShape<O>): boolean {
    if (this.closed) return false;
    const bytes = encode(this.#schemas.outgoing, message);
    if (bytes.length > MAX_MESSAGE_BYTES) {
      this.end(
        new MeshError(
          'resource_exhausted',
          `a message of ${bytes.length} bytes is over the limit of ${MAX_MESSAGE_BYTES}`,
        ),
      );
      return false;
    }
    this.#bufferedBytes += bytes.length;
    this.stream.write(bytes, () => this.#written(bytes.length));
    if (this.#bufferedBytes > HIGH_WATER_BYTES) this.#blocked = true;
    return !this.#blocked;
  }

  onDrain(handler: () => void): void {
    this.#onDrain = handler;
  }

  pause(): void {
    this.stream.pause();
  }

  resume(): void {
    this.stream.resume();
  }

  end(error?: MeshError): void {
    if (this.finished || (this.closed && !error)) return;
    this.#state = 'ended';
    this.endStream(error);
  }

  protected abstract endStream(error: MeshError | undefined): void;

  /** The call is over; only the first time counts. */
  protected finish(error?: MeshError): void {
    if (this.finished) return;
    this.#state = 'finished';
    this.#result = error;
    queueMicrotask(() => this.#tell());
  }

  #tell(): void {
    if (this.#told || !this.#onClose) return;
    this.#told = true;
    this.#onClose(this.#result);
  }

  #receive(bytes: Buffer): void {
    if (this.finished) return;
    let message: MessageShape<I>;
    try {
      message = decode(this.#schemas.incoming, bytes);
    } catch (cause) {
      this.end(new MeshError('invalid_argument', `not a ${this.#schemas.incoming.typeName}`, { cause }));
      return;
    }
    try {
      this.#onMessage?.(message);
    } catch (error) {
      this.end(toMeshError(error));
    }
  }

  #written(bytes: number): void {
    this.#bufferedBytes -= bytes;
    if (!this.#blocked || this.#bufferedBytes > LOW_WATER_BYTES) return;
    this.#blocked = false;
    if (!this.closed) this.#onDrain?.();
  }
}

/** The server's side. The client's end is answered by the own one: a call is over when either side says so. */
export class ServerBidi<I extends DescMessage, O extends DescMessage> extends Bidi<I, O> {
  constructor(
    stream: ServerDuplexStream<Buffer, Buffer>,
    schemas: Schemas<I, O>,
    onFinished: (error?: MeshError) => void,
  ) {
    super(stream as unknown as Duplex, schemas);
    this.#onFinished = onFinished;
    stream.once('end', () => setTimeout(() => setImmediate(() => this.end()), RESET_GRACE_MS));
    stream.once('cancelled', () => this.finish(cancellation(stream)));
  }

  readonly #onFinished: (error?: MeshError) => void;

  protected override finish(error?: MeshError): void {
    if (this.finished) return;
    super.finish(error);
    this.#onFinished(error);
  }

  protected endStream(error: MeshError | undefined): void {
    // grpc-js ends the call by the status of an error event, after what has been written.
    if (error) this.stream.emit('error', statusOf(error));
    else this.stream.end();
    this.finish(error);
  }
}

/** The client's side. */
export class ClientBidi<I extends DescMessage, O extends DescMessage> extends Bidi<I, O> {
  readonly #call: ClientDuplexStream<Buffer, Buffer>;

  constructor(call: ClientDuplexStream<Buffer, Buffer>, schemas: Schemas<I, O>) {
    super(call as unknown as Duplex, schemas);
    this.#call = call;
    // The status event follows and says the same.
    call.on('error', () => {});
    call.once('status', (status) => {
      const error = status.code === 0 ? undefined : toMeshError(status);
      // What came before the status is delivered before the close, unless nobody takes it.
      if (this.flowing && !call.readableEnded) call.once('end', () => this.finish(error));
      else if (error || call.readableLength === 0 || call.listenerCount('data') === 0) this.finish(error);
      else call.once('end', () => this.finish());
    });
  }

  protected endStream(error: MeshError | undefined): void {
    if (!error) {
      this.#call.end();
      return;
    }
    this.finish(error);
    this.#call.cancel();
  }
}

/** Why a call was cancelled at the server. */
export function cancellation(call: { getDeadline(): Date | number }): MeshError {
  if (Number(call.getDeadline()) <= Date.now()) return new MeshError('deadline_exceeded', 'deadline exceeded');
  return new MeshError('cancelled', 'the client has gone');
}
