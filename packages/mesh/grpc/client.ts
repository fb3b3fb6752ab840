import type { DescMethod, DescService, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { type ChannelOptions, credentials, Client as GrpcChannelClient } from '@grpc/grpc-js';
import { MeshError, toMeshError } from '../errors.js';
import type { Logger } from '../observe.js';
import { ClientBidi } from './bidi.js';
import { servedBy } from './peers.js';
import { serviceConfigOf } from './service-config.js';
import type { MeshTls } from './tls.js';
import type { CallOptions, Client } from './types.js';
import { type BytesMethod, bytesMethod, CHANNEL_OPTIONS, decode, encode, metadataOf } from './wire.js';

const DEFAULT_DEADLINE_MS = 5_000;

const CLIENT_OPTIONS: ChannelOptions = {
  ...CHANNEL_OPTIONS,
  // A restarted server is back in a second; grpc-js would wait up to two minutes between attempts.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.min_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 500,
  // A peer that stands still, or is cut off, is given up after five seconds instead of with the kernel's patience.
  'grpc.keepalive_time_ms': 2_500,
  'grpc.keepalive_timeout_ms': 2_500,
  // Inside the mesh nothing goes through a proxy, and DNS has nothing to say about how to call.
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // A name is looked up again when a connection ends; grpc-js would not do so within 30 s of the last time.
  'grpc.dns_min_time_between_resolutions_ms': 5_000,
};

export interface ClientOptions {
  /** host:port, or what gRPC's resolvers understand, for example dns:///name:port for all processes of a service. */
  readonly address: string;
  readonly logger?: Logger;
  /** Where the mesh has certificates: then the server has to have the name of the service. */
  readonly tls?: MeshTls | undefined;
  /** For unary calls that name none. */
  readonly defaultDeadlineMs?: number;
  readonly channelOptions?: ChannelOptions;
}

export interface ClientControl {
  /** Cancels calls that have not been ended; what has been ended may finish. */
  close(): void;
  /** @throws MeshError `unavailable` when there is no connection after `ms` milliseconds. */
  waitForReady(ms: number): Promise<void>;
}

/**
 * A client of one service. It connects with the first call, and again when a connection is lost; clients of one service and address with the
 * same options share a connection (grpc-js pools them). Calls go to the service's processes in turn, not to those that fail, and what the
 * contract calls idempotent is tried again within its deadline when it was `unavailable` ({@link serviceConfigOf}).
 */
export function createClient<S extends DescService>(service: S, options: ClientOptions): Client<S> & ClientControl {
  const { tls } = options;
  const channel = new GrpcChannelClient(options.address, tls?.clientCredentials ?? credentials.createInsecure(), {
    ...CLIENT_OPTIONS,
    'grpc.service_config': serviceConfigOf(service),
    ...(tls && { 'grpc.ssl_target_name_override': servedBy(service) }),
    ...options.channelOptions,
  });
  const calls = new Calls(channel, options.defaultDeadlineMs ?? DEFAULT_DEADLINE_MS);
  const methods = service.methods.map((method) => [method.localName, calls.method(method)]);
  return Object.assign(Object.fromEntries(methods), {
    close: () => calls.close(),
    waitForReady: (ms: number) => calls.waitForReady(ms),
  } satisfies ClientControl);
}

class Calls {
  readonly #channel: GrpcChannelClient;
  readonly #defaultDeadlineMs: number;
  /** Cancels each open call. */
  readonly #open = new Set<(reason: MeshError) => void>();
  #closed = false;

  constructor(channel: GrpcChannelClient, defaultDeadlineMs: number) {
    this.#channel = channel;
    this.#defaultDeadlineMs = defaultDeadlineMs;
  }

  method(method: DescMethod): unknown {
    const wire = bytesMethod(method);
    switch (method.methodKind) {
      case 'unary':
        return (request: MessageInitShape<typeof method.input>, options: CallOptions = {}) =>
          this.#unary(method, wire, request, options);
      case 'server_streaming':
        return (request: MessageInitShape<typeof method.input>, options: CallOptions = {}) =>
          this.#serverStream(method, wire, request, options);
      case 'bidi_streaming':
        return (options: CallOptions = {}) => this.#bidi(method, wire, options);
      case 'client_streaming':
        return () => {
          throw new MeshError('unimplemented', `${wire.path} takes a stream of requests, which is not supported`);
        };
    }
  }

  close(): void {
    this.#closed = true;
    for (const cancel of this.#open) cancel(new MeshError('cancelled', 'the client is closed'));
    this.#channel.close();
  }

  waitForReady(ms: number): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#channel.waitForReady(Date.now() + ms, (error) => {
        if (error) reject(new MeshError('unavailable', `no connection within ${ms} ms`, { cause: error }));
        else resolve();
      });
    });
  }

  async #unary(
    method: DescMethod,
    wire: BytesMethod,
    request: MessageInitShape<DescMethod['input']>,
    options: CallOptions,
  ): Promise<MessageShape<DescMethod['output']>> {
    const bytes = encode(method.input, request);
    this.#refuse(options);
    const deadline = Date.now() + (options.deadlineMs ?? this.#defaultDeadlineMs);
    const response = await new Promise<Buffer>((resolve, reject) => {
      const call = this.#channel.makeUnaryRequest(
        wire.path,
        wire.requestSerialize,
        wire.responseDeserialize,
        bytes,
        metadataOf(options.metadata),
        { deadline },
        (error, value) => {
          const reason = release();
          if (error) reject(reason ?? toMeshError(error));
          else resolve(value as Buffer);
        },
      );
      const release = this.#track(() => call.cancel(), options.signal);
    });
    return decoded(method, response);
  }

  async *#serverStream(
    method: DescMethod,
    wire: BytesMethod,
    request: MessageInitShape<DescMethod['input']>,
    options: CallOptions,
  ): AsyncGenerator<MessageShape<DescMethod['output']>> {
    this.#refuse(options);
    const call = this.#channel.makeServerStreamRequest(
      wire.path,
      wire.requestSerialize,
      wire.responseDeserialize,
      encode(method.input, request),
      metadataOf(options.metadata),
      deadlineOf(options),
    );
    const release = this.#track(() => call.cancel(), options.signal);
    try {
      for await (const bytes of call) yield decoded(method, bytes);
    } catch (error) {
      throw release() ?? toMeshError(error);
    } finally {
      release();
      // A consumer that leaves early has not read the status: the late error is nobody's.
      call.on('error', () => {});
      call.cancel();
    }
  }

  #bidi(
    method: DescMethod,
    wire: BytesMethod,
    options: CallOptions,
  ): ClientBidi<DescMethod['output'], DescMethod['input']> {
    this.#refuse(options);
    const stream = this.#channel.makeBidiStreamRequest(
      wire.path,
      wire.requestSerialize,
      wire.responseDeserialize,
      metadataOf(options.metadata),
      deadlineOf(options),
    );
    const call = new ClientBidi(stream, { incoming: method.output, outgoing: method.input });
    // What was ended properly may finish when the client closes; the signal cancels it all the same.
    const release = this.#track((reason, closing) => {
      if (!closing || !call.closed) call.end(reason);
    }, options.signal);
    stream.once('status', release);
    return call;
  }

  #refuse({ signal }: CallOptions): void {
    if (this.#closed) throw new MeshError('unavailable', 'the client is closed');
    if (signal?.aborted) throw toMeshError(signal.reason);
  }

  /**
   * Cancels a call when the signal aborts or the client closes. The function returned stops that, and tells why the call
   * was cancelled, if it was.
   */
  #track(
    cancel: (reason: MeshError, closing: boolean) => void,
    signal: AbortSignal | undefined,
  ): () => MeshError | undefined {
    let cancelled: MeshError | undefined;
    const onClose = (reason: MeshError) => {
      cancelled ??= reason;
      cancel(reason, true);
    };
    const onAbort = () => {
      cancelled ??= toMeshError(signal?.reason);
      cancel(cancelled, false);
    };
    this.#open.add(onClose);
    signal?.addEventListener('abort', onAbort, { once: true });
    return () => {
      this.#open.delete(onClose);
      signal?.removeEventListener('abort', onAbort);
      return cancelled;
    };
  }
}

function deadlineOf({ deadlineMs }: CallOptions): { deadline?: number } {
  return deadlineMs === undefined ? {} : { deadline: Date.now() + deadlineMs };
}

function decoded(method: DescMethod, bytes: Buffer): MessageShape<DescMethod['output']> {
  try {
    return decode(method.output, bytes);
  } catch (cause) {
    throw new MeshError('internal', `the answer is not a ${method.output.typeName}`, { cause });
  }
}
