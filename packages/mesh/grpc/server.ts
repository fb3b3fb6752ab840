import { setImmediate as turn } from 'node:timers/promises';
import type { DescMethod, DescService, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from '@grpc/grpc-js';
import { atMost } from '../abort.js';
import { MeshError, PortInUseError, toMeshError } from '../errors.js';
import type { Logger, Metrics } from '../observe.js';
import { hostAndPort } from './addresses.js';
import { ServerBidi } from './bidi.js';
import { Health, HealthService } from './health.js';
import { admitCaller, namesOf } from './peers.js';
import { REFLECTION_SERVICES, Reflection } from './reflection.js';
import { type AnyServerCall, ServedCall } from './served-call.js';
import type { MeshTls } from './tls.js';
import type { CallContext, ServiceImpl } from './types.js';
import { validate } from './validate.js';
import { widenWindows } from './window.js';
import { type BytesMethod, bytesMethod, CHANNEL_OPTIONS, decode, encode, statusOf } from './wire.js';

/** For servers without long calls: how long a process that has come may wait for its share of the calls, milliseconds. */
export const CONNECTION_AGE_MS = 300_000;
/** For a request that is no stream to be whole, milliseconds. */
const REQUEST_MS = 20_000;
/** Calls open at once on one connection; a client that has more makes them wait. */
const MAX_STREAMS = 1_000;
/** How long connections get to take leave after the last call has ended, milliseconds. */
const GOODBYE_MS = 250;
const HANDLERS_MS = 2_000;
const DURATION_BUCKETS_S = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];

type Handler = (request: never, ctx: CallContext) => unknown;
type Request = MessageShape<DescMethod['input']>;
type Response = MessageInitShape<DescMethod['output']>;

export interface GrpcServerOptions {
  /** Says in the logs whose server this is. */
  readonly name: string;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Who may call what; without it everybody who reaches the port may call everything. */
  readonly tls?: MeshTls | undefined;
  /** For unary calls of clients that set no deadline. */
  readonly defaultDeadlineMs?: number;
  /**
   * Connections older than this are asked to come again, milliseconds: only so do clients learn of processes that have come. What is
   * under way is finished. By default they stay.
   */
  readonly maxConnectionAgeMs?: number;
  /** How long a close waits for handlers whose calls it has ended, milliseconds. */
  readonly handlersMs?: number;
  /** For a request that is no stream to be whole, milliseconds. */
  readonly requestMs?: number;
}

/**
 * A gRPC server on protobuf-es descriptors. Requests of unary and server-streaming calls are checked against the rules in
 * the contract; bidirectional streams check what they carry. A MeshError reaches the client as it is, anything else as
 * `internal` with the text only in the log. Health and reflection come along.
 */
export class GrpcServer {
  readonly #server: Server;
  readonly #bound;
  readonly #logger: Logger;
  readonly #tls: MeshTls | undefined;
  readonly #defaultDeadlineMs: number | undefined;
  readonly #health = new Health();
  readonly #reflection = new Reflection();
  /** Paths of methods that take a stream of requests, which may go on for ever. */
  readonly #streams = new Set<string>();
  /** Calls of the services that were added. */
  readonly #calls = new Set<ServedCall>();
  /** Calls of health and reflection: a shutdown waits for nobody who only watches. */
  readonly #watching = new Set<ServedCall>();
  readonly #requests;
  readonly #durations;
  #onIdle: (() => void) | undefined;
  /** Handlers that run: a call may have ended before its handler does. */
  #handlers = 0;
  readonly #handlersMs: number;
  #onHandled: (() => void) | undefined;
  #closed = false;
  #stopped: Promise<void> | undefined;

  constructor(options: GrpcServerOptions) {
    const { maxConnectionAgeMs } = options;
    this.#server = new Server({
      ...CHANNEL_OPTIONS,
      'grpc.max_concurrent_streams': MAX_STREAMS,
      ...(maxConnectionAgeMs !== undefined && { 'grpc.max_connection_age_ms': maxConnectionAgeMs }),
    });
    this.#bound = widenWindows(this.#server, {
      isStream: (path) => this.#streams.has(path),
      requestMs: options.requestMs ?? REQUEST_MS,
    });
    this.#logger = options.logger.child({ server: options.name });
    this.#tls = options.tls;
    this.#defaultDeadlineMs = options.defaultDeadlineMs;
    this.#handlersMs = options.handlersMs ?? HANDLERS_MS;
    this.#requests = options.metrics.counter({
      name: 'chatmesh_grpc_requests_total',
      help: 'Finished calls by how they ended.',
      labelNames: ['service', 'method', 'code'],
    });
    this.#durations = options.metrics.histogram({
      name: 'chatmesh_grpc_request_seconds',
      help: 'From the arrival of a unary call to its answer.',
      labelNames: ['service', 'method'],
      buckets: DURATION_BUCKETS_S,
    });
    this.#register(HealthService, this.#health.handlers, this.#watching);
    for (const service of REFLECTION_SERVICES) this.#register(service, this.#reflection.handlers, this.#watching);
  }

  /** Serves a service; to be called before {@link listen}. */
  add<S extends DescService>(service: S, impl: ServiceImpl<S>): this {
    this.#register(service, impl as Record<string, Handler>, this.#calls);
    return this;
  }

  /**
   * Listens; port 0 takes a free one. Resolves to the port.
   *
   * @throws PortInUseError naming `variable`.
   */
  async listen({ host, port, variable }: { host: string; port: number; variable: string }): Promise<number> {
    const address = hostAndPort(host, port);
    const bound = await new Promise<number>((resolve, reject) => {
      const credentials = this.#tls?.serverCredentials ?? ServerCredentials.createInsecure();
      this.#server.bindAsync(address, credentials, (error, bound) => {
        if (!error) resolve(bound);
        else if (error.message.includes('EADDRINUSE')) reject(new PortInUseError(variable, port, error));
        else
          reject(
            new MeshError('failed_precondition', `cannot listen on ${address} (${variable}): ${error.message}`, {
              cause: error,
            }),
          );
      });
    });
    this.#bound();
    this.#health.setServing(true);
    return bound;
  }

  /** Takes no new calls and lets those that are there finish; after `deadlineMs` milliseconds they end as `unavailable`. */
  drain(deadlineMs: number): Promise<void> {
    this.#stopped ??= this.#stop(deadlineMs);
    return this.#stopped;
  }

  /**
   * Ends every call as `unavailable`, and waits for a bounded time until their handlers have ended, too: what these use may be
   * closed then. Idempotent.
   */
  async close(): Promise<void> {
    const draining = this.#stopped;
    this.#closed = true;
    this.#endCalls();
    await (draining ?? this.drain(0));
    if (this.#handlers > 0) await atMost(this.#handlersMs, new Promise<void>((resolve) => (this.#onHandled = resolve)));
  }

  async #stop(deadlineMs: number): Promise<void> {
    this.#health.setServing(false);
    const goodbye = new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()));
    // Whoever watches the health is told before the end.
    await turn();
    if (this.#calls.size > 0) await atMost(deadlineMs, new Promise<void>((resolve) => (this.#onIdle = resolve)));
    this.#endCalls();
    await atMost(GOODBYE_MS, goodbye);
    this.#server.forceShutdown();
  }

  #endCalls(): void {
    for (const call of [...this.#calls, ...this.#watching]) call.fail(shuttingDown());
  }

  #handled(): void {
    this.#handlers--;
    if (this.#handlers === 0) this.#onHandled?.();
  }

  #register(service: DescService, handlers: Record<string, Handler>, calls: Set<ServedCall>): void {
    const definition: Record<string, BytesMethod> = {};
    const implementation: Record<string, (call: never, callback: never) => void> = {};
    for (const method of service.methods) {
      const handler = handlers[method.localName];
      if (!handler) throw new Error(`no handler for ${service.typeName}/${method.name}`);
      const wire = bytesMethod(method);
      if (wire.requestStream) this.#streams.add(wire.path);
      definition[method.localName] = wire;
      implementation[method.localName] = this.#serve(method, handler.bind(handlers), calls);
    }
    this.#server.addService(definition, implementation as never);
    this.#health.add(service.typeName);
    this.#reflection.add(service);
  }

  #serve(method: DescMethod, handler: Handler, calls: Set<ServedCall>): (call: never, callback: never) => void {
    const begin = this.#tracker(method, calls);
    const admit = this.#doorkeeper(method.parent, calls);
    const parse = (bytes: Buffer): never => {
      const request = parsed(method, bytes);
      validate(method.input, request);
      return request as never;
    };
    switch (method.methodKind) {
      case 'unary':
        return (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
          const served = begin(call, (error) => callback(statusOf(error)));
          const answer = async () => {
            this.#handlers++;
            try {
              admit(call);
              return encode(method.output, (await handler(parse(call.request), served)) as Response);
            } finally {
              this.#handled();
            }
          };
          answer().then(
            (bytes) => served.settle() && callback(null, bytes),
            (error) => served.fail(toMeshError(error)),
          );
        };
      case 'server_streaming':
        return (call: ServerWritableStream<Buffer, Buffer>) => {
          const served = begin(call, (error) => call.emit('error', statusOf(error)));
          const answer = async () => {
            this.#handlers++;
            try {
              admit(call);
              for await (const message of handler(parse(call.request), served) as AsyncIterable<Response>) {
                if (served.settled) return;
                if (!call.write(encode(method.output, message))) await writable(call, served.signal);
              }
            } finally {
              this.#handled();
            }
          };
          answer().then(
            () => served.settle() && call.end(),
            (error) => served.fail(toMeshError(error)),
          );
        };
      case 'bidi_streaming':
        return (call: ServerDuplexStream<Buffer, Buffer>) => {
          const served = begin(call, (error) => bidi.end(error));
          const bidi = new ServerBidi(call, { incoming: method.input, outgoing: method.output }, (error) => {
            served.settle(error);
            served.abort(error ?? new MeshError('cancelled', 'the call has ended'));
          });
          const run = async () => {
            this.#handlers++;
            try {
              admit(call);
              await handler(bidi as never, served);
            } finally {
              this.#handled();
            }
          };
          run().catch((error) => bidi.end(toMeshError(error)));
        };
      case 'client_streaming':
        throw new Error(`${method.parent.typeName}/${method.name} takes a stream of requests, which is not supported`);
    }
  }

  /**
   * Refuses calls that were on their way when the server closed, and callers who may not call a service. Health and reflection are
   * for everybody with a certificate of the mesh.
   */
  #doorkeeper(service: DescService, calls: Set<ServedCall>): (call: AnyServerCall) => void {
    const forAll = !this.#tls || calls === this.#watching;
    return (call) => {
      if (this.#closed) throw shuttingDown();
      if (!forAll) admitCaller(service, namesOf(call.getAuthContext().sslPeerCertificate));
    };
  }

  /** Follows the calls of a method: for the shutdown, the metrics and the log. */
  #tracker(method: DescMethod, calls: Set<ServedCall>) {
    const labels = { service: method.parent.typeName, method: method.name };
    const unary = method.methodKind === 'unary';
    const duration = this.#durations.labels(labels);
    return (call: AnyServerCall, respond: (error: MeshError) => void): ServedCall => {
      const startedAtMs = performance.now();
      const served: ServedCall = new ServedCall(call, {
        defaultDeadlineMs: unary ? this.#defaultDeadlineMs : undefined,
        respond,
        onSettled: (error) => {
          calls.delete(served);
          if (this.#calls.size === 0) this.#onIdle?.();
          this.#requests.inc({ ...labels, code: error?.kind ?? 'ok' });
          if (unary) duration.observe((performance.now() - startedAtMs) / 1000);
          if (error?.kind === 'internal') this.#logger.error({ ...labels, err: error.cause ?? error }, 'a call failed');
        },
      });
      calls.add(served);
      return served;
    };
  }
}

function shuttingDown(): MeshError {
  return new MeshError('unavailable', 'the server is shutting down');
}

function parsed(method: DescMethod, bytes: Buffer): Request {
  try {
    return decode(method.input, bytes);
  } catch (cause) {
    throw new MeshError('invalid_argument', `not a ${method.input.typeName}`, { cause });
  }
}

/** Resolves when the transport takes more, or when there is nobody to take it. */
function writable(call: ServerWritableStream<Buffer, Buffer>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      call.off('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    call.once('drain', done);
    signal.addEventListener('abort', done, { once: true });
    if (signal.aborted) done();
  });
}
