import type { ServerDuplexStream, ServerUnaryCall, ServerWritableStream } from '@grpc/grpc-js';
import { monotonicMs } from '../clock.js';
import type { MeshError } from '../errors.js';
import { cancellation } from './bidi.js';
import type { CallContext } from './types.js';

export type AnyServerCall =
  | ServerUnaryCall<Buffer, Buffer>
  | ServerWritableStream<Buffer, Buffer>
  | ServerDuplexStream<Buffer, Buffer>;

export interface ServedCallOptions {
  /** For a call whose client set no deadline, milliseconds. */
  readonly defaultDeadlineMs: number | undefined;
  /** Ends the call at the client. */
  readonly respond: (error: MeshError) => void;
  /** Told once. */
  readonly onSettled: (error: MeshError | undefined) => void;
}

/**
 * One call that is being served. Its handler, its client, its deadline and the server's shutdown race for its end: the
 * first to {@link settle} it has won, and only that one answers.
 */
export class ServedCall implements CallContext {
  readonly #call: AnyServerCall;
  readonly #options: ServedCallOptions;
  /** By the monotonic clock; Infinity is none. */
  readonly #deadlineAtMs: number;
  readonly #timer: NodeJS.Timeout | undefined;
  /** Made when somebody asks: most handlers never do. */
  #controller: AbortController | undefined;
  #abortedBy: MeshError | undefined;
  #settled = false;

  constructor(call: AnyServerCall, options: ServedCallOptions) {
    this.#call = call;
    this.#options = options;
    const { defaultDeadlineMs } = options;
    const deadlineAtMs = Number(call.getDeadline());
    if (deadlineAtMs === Number.POSITIVE_INFINITY && defaultDeadlineMs !== undefined) {
      this.#deadlineAtMs = monotonicMs() + defaultDeadlineMs;
      // grpc-js watches the deadlines that clients set, and this one is not on the wire.
      this.#timer = setTimeout(() => this.fail(cancellation({ getDeadline: () => 0 })), defaultDeadlineMs).unref();
    } else {
      // grpc-js has made a time of the day of what the client has sent, which is how long it will wait.
      this.#deadlineAtMs = monotonicMs() + deadlineAtMs - Date.now();
    }
    (call as ServerUnaryCall<Buffer, Buffer>).once('cancelled', () => {
      const reason = cancellation(call);
      this.settle(reason);
      this.abort(reason);
    });
  }

  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    if (this.#abortedBy) this.#controller.abort(this.#abortedBy);
    return this.#controller.signal;
  }

  get deadlineMs(): number | undefined {
    return this.#deadlineAtMs === Number.POSITIVE_INFINITY
      ? undefined
      : Math.max(0, this.#deadlineAtMs - monotonicMs());
  }

  get metadata(): Record<string, string> {
    const entries = Object.entries(this.#call.metadata.getMap());
    return Object.fromEntries(entries.filter((entry): entry is [string, string] => typeof entry[1] === 'string'));
  }

  get peer(): string {
    return this.#call.getPeer();
  }

  get settled(): boolean {
    return this.#settled;
  }

  /** True for the first one only: who gets it answers the client. */
  settle(error?: MeshError): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    clearTimeout(this.#timer);
    this.#options.onSettled(error);
    return true;
  }

  /** Ends the call against its handler's will. */
  fail(error: MeshError): void {
    if (this.settle(error)) this.#options.respond(error);
    this.abort(error);
  }

  /** Tells the handler that nobody waits for it any more. */
  abort(reason: MeshError): void {
    this.#abortedBy ??= reason;
    this.#controller?.abort(this.#abortedBy);
  }
}
