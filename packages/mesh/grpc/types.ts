import type { DescMessage, DescMethod, DescService, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import type { BidiCall } from './bidi.js';

/** What a handler knows of its call besides the request. */
export interface CallContext {
  /** Aborts when the client is gone or the deadline has passed, with a MeshError as the reason. */
  readonly signal: AbortSignal;
  /** What is left until the deadline, milliseconds; undefined when there is none. */
  readonly deadlineMs: number | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  /** Address of the client, host:port. */
  readonly peer: string;
}

/** A handler for every method of a service. Streams of requests with a single response are not supported. */
export type ServiceImpl<S extends DescService> = { [K in keyof S['method']]: MethodImpl<S['method'][K]> };

type MethodImpl<M extends DescMethod> =
  M extends Kind<'unary', infer I, infer O>
    ? (request: MessageShape<I>, ctx: CallContext) => Promise<MessageInitShape<O>>
    : M extends Kind<'server_streaming', infer I, infer O>
      ? (request: MessageShape<I>, ctx: CallContext) => AsyncIterable<MessageInitShape<O>>
      : M extends Kind<'bidi_streaming', infer I, infer O>
        ? (call: BidiCall<MessageShape<I>, MessageInitShape<O>>, ctx: CallContext) => Promise<void> | void
        : never;

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Of the whole call, milliseconds. */
  readonly deadlineMs?: number | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** A method for every method of a service. Every failure is a MeshError with the server's kind and message. */
export type Client<S extends DescService> = { readonly [K in keyof S['method']]: MethodCall<S['method'][K]> };

type MethodCall<M extends DescMethod> =
  M extends Kind<'unary', infer I, infer O>
    ? (request: MessageInitShape<I>, options?: CallOptions) => Promise<MessageShape<O>>
    : M extends Kind<'server_streaming', infer I, infer O>
      ? (request: MessageInitShape<I>, options?: CallOptions) => AsyncIterable<MessageShape<O>>
      : M extends Kind<'bidi_streaming', infer I, infer O>
        ? (options?: CallOptions) => BidiCall<MessageShape<O>, MessageInitShape<I>>
        : never;

interface Kind<K extends DescMethod['methodKind'], I extends DescMessage, O extends DescMessage> {
  readonly methodKind: K;
  readonly input: I;
  readonly output: O;
}
