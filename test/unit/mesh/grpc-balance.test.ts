import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { type Client, createClient, GrpcServer, MeshError, Metrics, type ServiceImpl } from '@chatmesh/mesh';
import { afterEach, describe, expect, test } from '@jest/globals';
import { ID } from './grpc-support.js';
import { memoryLogger } from './support.js';

type Answer = ServiceImpl<typeof SessionService>['listSessions'];

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const unused = async () => ({});

/** A process of a service: every call of it is `answer`'s. Resolves to its port. */
async function serve(answer: Answer, options: { port?: number; maxConnectionAgeMs?: number } = {}): Promise<number> {
  const { port = 0, ...rest } = options;
  const { logger } = memoryLogger();
  const server = new GrpcServer({ name: 'test', logger, metrics: new Metrics({ processMetrics: false }), ...rest })
    .add(SessionService, { report: unused, listSessions: answer })
    .add(InternalChatService, {
      announceDevices: async (_request, ctx) => {
        await answer({} as never, ctx);
        return {};
      },
      ...{ confirm: unused, getMessageStatus: unused, sendMessage: unused, listInbox: unused },
      explainMessage: unused,
    });
  closing.push(() => server.close());
  return server.listen({ host: '127.0.0.1', port, variable: 'TEST_PORT' });
}

/** A client of the processes on these ports. */
function clientOf(...ports: number[]): Client<typeof SessionService> {
  const client = createClient(SessionService, { address: addressOf(ports) });
  closing.push(() => client.close());
  return client;
}

/** What gRPC's resolvers take for several addresses at once. */
function addressOf(ports: number[]): string {
  return `ipv4:${ports.map((port) => `127.0.0.1:${port}`).join(',')}`;
}

/** A handler that fails so many times first, and counts its calls. */
function failing(times: number, kind: 'unavailable' | 'internal' = 'unavailable') {
  const handler = Object.assign(
    async () => {
      if (handler.calls++ < times) throw new MeshError(kind, 'not now');
      return {};
    },
    { calls: 0 },
  );
  return handler;
}

describe('a call that may be repeated', () => {
  test('is tried again when it was unavailable', async () => {
    const handler = failing(2);
    await clientOf(await serve(handler)).listSessions({});
    expect(handler.calls).toBe(3);
  });

  test('is tried again when nobody listened yet', async () => {
    const port = await serve(failing(0));
    const client = clientOf(port);
    await client.listSessions({});
    await closing.splice(0, 1)[0]?.();
    const call = client.listSessions({});
    await serve(failing(0), { port });
    await call;
  });

  test('is not tried again after any other error', async () => {
    const handler = failing(1, 'internal');
    await expect(clientOf(await serve(handler)).listSessions({})).rejects.toMatchObject({ kind: 'internal' });
    expect(handler.calls).toBe(1);
  });

  test('is not tried again when it is not worth the budget: most calls fail', async () => {
    const handler = failing(Number.POSITIVE_INFINITY);
    const client = clientOf(await serve(handler));
    const calls = 200;
    const settled = await Promise.allSettled(Array.from({ length: calls }, () => client.listSessions({})));
    expect(settled.every(({ status }) => status === 'rejected')).toBe(true);
    expect(handler.calls).toBeLessThan(calls + 60);
    const before = handler.calls;
    await expect(client.listSessions({})).rejects.toMatchObject({ kind: 'unavailable' });
    expect(handler.calls).toBe(before + 1);
  });
});

test('a call that the contract does not call idempotent is made once', async () => {
  const handler = failing(1);
  const port = await serve(handler);
  const client = createClient(InternalChatService, { address: addressOf([port]) });
  closing.push(() => client.close());
  const devices = [{ userId: ID, deviceId: ID }];
  await expect(client.announceDevices({ devices })).rejects.toMatchObject({ kind: 'unavailable' });
  expect(handler.calls).toBe(1);
});

describe('the processes of a service', () => {
  test('get calls in turn', async () => {
    const handlers = [failing(0), failing(0)] as const;
    const client = clientOf(await serve(handlers[0]), await serve(handlers[1]));
    // Both are connected to when the first calls are made; which is first is open.
    while (handlers.some(({ calls }) => calls === 0)) await client.listSessions({});
    const before = handlers.map(({ calls }) => calls);
    for (let i = 0; i < 20; i++) await client.listSessions({});
    expect(handlers.map(({ calls }, i) => calls - (before[i] ?? 0))).toEqual([10, 10]);
  });

  test('are left alone when their calls fail, as long as others answer', async () => {
    const well = failing(0);
    const ill = failing(Number.POSITIVE_INFINITY, 'internal');
    const client = clientOf(await serve(well), await serve(ill));
    // An ejection is decided every two seconds; after one, calls succeed in a row, which by turns they could not.
    let inARow = 0;
    const giveUpAt = performance.now() + 20_000;
    while (inARow < 50 && performance.now() < giveUpAt) {
      await client.listSessions({}).then(
        () => inARow++,
        () => {
          inARow = 0;
        },
      );
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    expect(inARow).toBe(50);
    expect(ill.calls).toBeGreaterThan(0);
  });

  test('ask their clients to connect again from time to time, and no call is lost by it', async () => {
    const handler = failing(0);
    const peers = new Set<string>();
    const port = await serve(
      async (_request, { peer }) => {
        peers.add(peer);
        return handler();
      },
      { maxConnectionAgeMs: 50 },
    );
    const client = clientOf(port);
    while (peers.size < 4) await client.listSessions({});
  });
});
