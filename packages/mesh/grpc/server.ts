import type { DescMethod, DescService, MessageInitShape } from '@bufbuild/protobuf';
import { type handleBidiStreamingCall, Server, ServerCredentials, type sendUnaryData, type ServerDuplexStream, type ServerUnaryCall, type ServerWritableStream } from '@grpc/grpc-js';
import { MeshError, PortInUseError, toMeshError } from '../errors.js';
import type { Logger, Metrics } from '../observe.js';
import { cancellation, ServerBidi } from './bidi.js';
import type { CallContext, ServiceImpl } from './types.js';
import { validate } from './validate.js';
import { bytesMethod, CHANNEL_OPTIONS, decode, encode, statusOf } from './wire.js';

type AnyCall = ServerUnaryCall<Buffer, Buffer> | ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;

/** A gRPC server on protobuf-es descriptors: validation, error mapping, metrics. */
export class GrpcServer {
  readonly #server = new Server(CHANNEL_OPTIONS);
  readonly #logger: Logger;

  constructor(options: { name: string; logger: Logger; metrics: Metrics; defaultDeadlineMs?: number }) {
    this.#logger = options.logger;
  }

  add<S extends DescService>(service: S, impl: ServiceImpl<S>): this {
    const definition: Record<string, ReturnType<typeof bytesMethod>> = {};
    const handlers: Record<string, unknown> = {};
    for (const method of service.methods) {
      definition[method.localName] = bytesMethod(method);
      const handler = (impl as Record<string, (request: unknown, ctx: CallContext) => unknown>)[method.localName] as (request: unknown, ctx: CallContext) => unknown;
      handlers[method.localName] = this.#handler(method, handler.bind(impl));
    }
    this.#server.addService(definition, handlers as never);
    return this;
  }

  listen(options: { host: string; port: number; variable: string }): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(`${options.host}:${options.port}`, ServerCredentials.createInsecure(), (error, port) => {
        if (!error) resolve(port);
        else reject(/EADDRINUSE|address already in use/i.test(error.message) ? new PortInUseError(options.variable, options.port, error) : error);
      });
    });
  }

  async drain(deadlineMs: number): Promise<void> {
    await Promise.race([new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve())), new Promise((resolve) => setTimeout(resolve, deadlineMs))]);
  }

  async close(): Promise<void> {
    this.#server.forceShutdown();
  }

  #handler(method: DescMethod, handler: (request: unknown, ctx: CallContext) => unknown): unknown {
    if (method.methodKind === 'bidi_streaming') {
      return (call: ServerDuplexStream<Buffer, Buffer>) => {
        const bidi = new ServerBidi(call, { incoming: method.input, outgoing: method.output } as never, () => {});
        void handler(bidi, contextOf(call));
      };
    }
    return async (call: ServerUnaryCall<Buffer, Buffer>, callback: sendUnaryData<Buffer>) => {
      try {
        const request = decode(method.input, call.request);
        validate(method.input, request);
        const response = (await handler(request, contextOf(call))) as MessageInitShape<typeof method.output>;
        callback(null, encode(method.output, response));
      } catch (error) {
        const mesh = toMeshError(error);
        if (mesh.kind === 'internal') this.#logger.error({ err: error, method: method.name }, 'a call failed');
        callback(statusOf(mesh) as never);
      }
    };
  }
}

function contextOf(call: AnyCall): CallContext {
  const controller = new AbortController();
  (call as ServerUnaryCall<Buffer, Buffer>).once('cancelled', () => controller.abort(cancellation(call)));
  return { signal: controller.signal, deadlineMs: undefined, metadata: {}, peer: call.getPeer() };
}
export type { handleBidiStreamingCall, MeshError };
