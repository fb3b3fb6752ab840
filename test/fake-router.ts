import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import {
  type RouteRequest,
  type RouteResponse,
  RouteResponseSchema,
  RouterService,
} from '@chatmesh/gen/chat/v1/router';
import { type BidiCall, createLogger, GrpcServer, MeshError, Metrics } from '@chatmesh/mesh';

const unimplemented = () => {
  throw new MeshError('unimplemented', 'not part of this test');
};

/** A router that does nothing by itself: it shows what an edge says, and says what a test wants. */
export class FakeRouter implements AsyncDisposable {
  readonly address: string;
  /** Everything that edges have said, in order. */
  readonly requests: RouteRequest[] = [];
  readonly announcedDevices: { readonly userId: string; readonly deviceId: string }[] = [];
  readonly #server: GrpcServer;
  #call: BidiCall<RouteRequest, RouteResponse> | undefined;

  private constructor(server: GrpcServer, port: number) {
    this.#server = server;
    this.address = `127.0.0.1:${port}`;
  }

  static async start(): Promise<FakeRouter> {
    const logger = createLogger({ name: 'test', level: 'silent' });
    const server = new GrpcServer({ name: 'router', logger, metrics: new Metrics({ processMetrics: false }) });
    let router: FakeRouter | undefined;
    server.add(RouterService, { route: (call) => (router as FakeRouter).#route(call) }).add(InternalChatService, {
      sendMessage: unimplemented,
      confirm: unimplemented,
      getMessageStatus: unimplemented,
      listInbox: unimplemented,
      explainMessage: unimplemented,
      announceDevices: async ({ devices }) => {
        router?.announcedDevices.push(...devices);
        return {};
      },
    });
    router = new FakeRouter(server, await server.listen({ host: '127.0.0.1', port: 0, variable: 'CHAT_PORT' }));
    return router;
  }

  say(response: MessageInitShape<typeof RouteResponseSchema>): void {
    this.#call?.write(create(RouteResponseSchema, { clockMs: BigInt(Date.now()), ...response }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.close();
  }

  #route(call: BidiCall<RouteRequest, RouteResponse>): void {
    this.#call = call;
    call.onMessage((request) => this.requests.push(request));
    call.onClose(() => {});
    this.say({});
  }
}
