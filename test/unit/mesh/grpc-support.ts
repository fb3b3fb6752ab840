import { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { type Client, createClient, GrpcServer, MeshError, Metrics, type ServiceImpl } from '@chatmesh/mesh';
import { memoryLogger } from './support.js';

export const ID = '6ba7b810-9dad-41d1-80b4-00c04fd430c8';

type Sessions = ServiceImpl<typeof SessionService>;
type Chat = ServiceImpl<typeof ChatService>;
type Route = ServiceImpl<typeof RouterService>['route'];

export interface World {
  readonly server: GrpcServer;
  readonly port: number;
  readonly address: string;
  readonly metrics: Metrics;
  readonly lines: Record<string, unknown>[];
  readonly sessions: Client<typeof SessionService>;
  readonly chat: Client<typeof ChatService>;
  readonly router: Client<typeof RouterService> & { close(): void };
  close(): Promise<void>;
}

const unimplemented = () => {
  throw new MeshError('unimplemented', 'not part of this test');
};

/** A real server on a free port with the handlers that a test brings, and clients of it. */
export async function world(
  handlers: Partial<Sessions> &
    Partial<Pick<Chat, 'receive'>> & {
      route?: Route;
      defaultDeadlineMs?: number;
      handlersMs?: number;
      requestMs?: number;
    } = {},
): Promise<World> {
  const { logger, lines } = memoryLogger();
  const metrics = new Metrics({ processMetrics: false });
  const { defaultDeadlineMs, handlersMs = 100, requestMs } = handlers;
  const server = new GrpcServer({
    name: 'test',
    logger,
    metrics,
    handlersMs,
    ...(defaultDeadlineMs !== undefined && { defaultDeadlineMs }),
    ...(requestMs !== undefined && { requestMs }),
  })
    .add(SessionService, {
      report: handlers.report ?? unimplemented,
      listSessions: handlers.listSessions ?? unimplemented,
    })
    .add(RouterService, { route: handlers.route ?? unimplemented })
    .add(ChatService, {
      connect: unimplemented,
      receive: handlers.receive ?? unimplemented,
      send: unimplemented,
      acknowledge: unimplemented,
      getStatus: unimplemented,
    });
  const port = await server.listen({ host: '127.0.0.1', port: 0, variable: 'TEST_PORT' });
  const address = `127.0.0.1:${port}`;
  const sessions = createClient(SessionService, { address, logger });
  const chat = createClient(ChatService, { address, logger });
  const router = createClient(RouterService, { address, logger });
  return {
    ...{ server, port, address, metrics, lines, sessions, chat, router },
    close: async () => {
      for (const client of [sessions, chat, router]) client.close();
      await server.close();
    },
  };
}

/** A valid request of SessionService.Report. */
export const REPORT = { edgeId: ID, leaseMs: 1_000 };
