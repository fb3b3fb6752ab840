import { create } from '@bufbuild/protobuf';
import { ServerFrameSchema } from '@chatmesh/gen/chat/v1/frames';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { type CallContext, createClient, type ErrorKind, MeshError } from '@chatmesh/mesh';
import { Client, credentials } from '@grpc/grpc-js';
import { afterEach, describe, expect, test } from '@jest/globals';
import { ID, REPORT, type World, world } from './grpc-support.js';
import { gate, until } from './support.js';

let w: World;
afterEach(() => w.close());

describe('a unary call', () => {
  test('brings the request to the handler and its answer back', async () => {
    w = await world({
      listSessions: async ({ userIds }) => ({
        sessions: userIds.map((userId) => ({ edgeId: ID, session: { userId, session: 7 } })),
      }),
    });
    const { sessions } = await w.sessions.listSessions({ userIds: [ID] });
    expect(sessions).toMatchObject([{ edgeId: ID, session: { userId: ID, session: 7 } }]);
  });

  test('tells the handler its deadline, metadata and peer', async () => {
    let seen: Omit<CallContext, 'signal'> | undefined;
    w = await world({
      report: async (_request, { deadlineMs, metadata, peer }) => {
        seen = { deadlineMs, metadata, peer };
        return {};
      },
    });
    await w.sessions.report(REPORT, { deadlineMs: 60_000, metadata: { 'x-trace': 'abc' } });
    expect(seen?.metadata).toMatchObject({ 'x-trace': 'abc' });
    expect(seen?.deadlineMs).toBeGreaterThan(30_000);
    expect(seen?.deadlineMs).toBeLessThanOrEqual(60_000);
    expect(seen?.peer).toMatch(/^127\.0\.0\.1:\d+$/);
  });

  test('has a deadline of five seconds where none is named', async () => {
    let left: number | undefined;
    w = await world({
      report: async (_request, ctx) => {
        left = ctx.deadlineMs;
        return {};
      },
    });
    await w.sessions.report(REPORT);
    expect(left).toBeGreaterThan(0);
    expect(left).toBeLessThanOrEqual(5_000);
  });

  test('ends by its deadline, and the handler learns of it', async () => {
    const aborted = gate<unknown>();
    w = await world({
      report: (_request, { signal }) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => {
            aborted.open(signal.reason);
            reject(signal.reason);
          });
        }),
    });
    await expect(w.sessions.report(REPORT, { deadlineMs: 50 })).rejects.toMatchObject({ kind: 'deadline_exceeded' });
    expect(await aborted.promise).toMatchObject({ kind: 'deadline_exceeded' });
  });

  test("gets the server's deadline when its client sets none", async () => {
    w = await world({ defaultDeadlineMs: 50, report: () => new Promise(() => {}) });
    const bare = new Client(w.address, credentials.createInsecure());
    const same = (bytes: Buffer) => bytes;
    const request = Buffer.from([0x0a, 36, ...Buffer.from(ID), 0x10, 0xe8, 0x07]);
    const error = await new Promise<{ code: number } | null>((resolve) => {
      bare.makeUnaryRequest('/presence.v1.SessionService/Report', same, same, request, resolve);
    });
    expect(error?.code).toBe(4);
    bare.close();
  });

  test('given up by its client ends at once, and the handler learns of it', async () => {
    const entered = gate();
    const aborted = gate<unknown>();
    w = await world({
      report: (_request, { signal }) => {
        entered.open();
        signal.addEventListener('abort', () => aborted.open(signal.reason));
        return new Promise(() => {});
      },
    });
    const stop = new AbortController();
    const call = w.sessions.report(REPORT, { signal: stop.signal });
    call.catch(() => {});
    await entered.promise;
    stop.abort();
    await expect(call).rejects.toMatchObject({ kind: 'cancelled' });
    expect(await aborted.promise).toMatchObject({ kind: 'cancelled' });
    await expect(w.sessions.report(REPORT, { signal: stop.signal })).rejects.toMatchObject({ kind: 'cancelled' });
  });

  test('fails as unavailable where nobody listens', async () => {
    w = await world();
    await w.server.close();
    await expect(w.sessions.report(REPORT)).rejects.toMatchObject({ kind: 'unavailable' });
  });

  test('is refused by a closed client', async () => {
    w = await world({ report: async () => ({}) });
    const client = createClient(SessionService, { address: w.address });
    client.close();
    await expect(client.report(REPORT)).rejects.toMatchObject({ kind: 'unavailable' });
  });

  test('carries 15 MiB in both directions', async () => {
    const text = 'x'.repeat(15 * 1024 * 1024);
    w = await world({
      listSessions: async () => ({ sessions: [{ edgeId: text }] }),
      report: async ({ opened }) => ({ unknownEdge: opened[0]?.userId.length === text.length }),
    });
    expect((await w.sessions.listSessions({})).sessions[0]?.edgeId.length).toBe(text.length);
    expect((await w.sessions.report({ ...REPORT, opened: [{ userId: text }] })).unknownEdge).toBe(true);
  });
});

describe('the rules in the contract', () => {
  test('are enforced before the handler runs, and the refusal names every field', async () => {
    let calls = 0;
    w = await world({
      report: async () => {
        calls++;
        return {};
      },
    });
    const refused = w.sessions.report({ edgeId: 'edge-1', leaseMs: 5 });
    await expect(refused).rejects.toMatchObject({
      kind: 'invalid_argument',
      message: expect.stringMatching(/edge_id: .*UUID.*; lease_ms: /),
    });
    expect(calls).toBe(0);
    await w.sessions.report(REPORT);
    expect(calls).toBe(1);
  });

  test('name the item of a list, and bound its length', async () => {
    w = await world({ listSessions: async () => ({}) });
    await expect(w.sessions.listSessions({ userIds: [ID, 'ada'] })).rejects.toMatchObject({
      message: expect.stringContaining('user_ids[1]'),
    });
    await expect(w.sessions.listSessions({ userIds: Array.from({ length: 1001 }, () => ID) })).rejects.toMatchObject({
      kind: 'invalid_argument',
      message: expect.stringContaining('user_ids'),
    });
  });

  test('bytes that are no message at all are an invalid argument too', async () => {
    w = await world({ report: async () => ({}) });
    const bare = new Client(w.address, credentials.createInsecure());
    const same = (bytes: Buffer) => bytes;
    const error = await new Promise<{ code: number } | null>((resolve) => {
      bare.makeUnaryRequest('/presence.v1.SessionService/Report', same, same, Buffer.from([0x0a, 0xff]), resolve);
    });
    expect(error?.code).toBe(3);
    bare.close();
  });
});

describe('an error of the handler', () => {
  test('reaches the client with kind, message and when to try again', async () => {
    const kinds: ErrorKind[] = [
      'not_found',
      'permission_denied',
      'failed_precondition',
      'aborted',
      'unauthenticated',
      'unavailable',
    ];
    w = await world({
      report: async ({ leaseMs }) => {
        throw new MeshError(kinds[leaseMs - 100] as ErrorKind, `grüße ${leaseMs}`, { retryAfterMs: leaseMs });
      },
    });
    for (const [i, kind] of kinds.entries()) {
      const leaseMs = 100 + i;
      await expect(w.sessions.report({ ...REPORT, leaseMs })).rejects.toMatchObject({
        kind,
        message: `grüße ${leaseMs}`,
        retryAfterMs: leaseMs,
      });
    }
  });

  test('that is unknown becomes internal, with its text only in the log', async () => {
    w = await world({
      report: async () => {
        throw new Error('table users is gone');
      },
    });
    const error = await w.sessions.report(REPORT).catch((e) => e);
    expect(error).toMatchObject({ kind: 'internal', message: 'internal error' });
    expect(JSON.stringify(w.lines)).toContain('table users is gone');
  });

  test('is counted by method and code', async () => {
    w = await world({
      report: async ({ full }) => {
        if (full) throw new MeshError('aborted', 'no');
        return {};
      },
    });
    await w.sessions.report(REPORT);
    await w.sessions.report({ ...REPORT, full: true }).catch(() => {});
    const text = await w.metrics.text();
    const labels = 'service="presence.v1.SessionService",method="Report"';
    expect(text).toContain(`chatmesh_grpc_requests_total{${labels},code="ok"} 1`);
    expect(text).toContain(`chatmesh_grpc_requests_total{${labels},code="aborted"} 1`);
    expect(text).toContain(`chatmesh_grpc_request_seconds_count{${labels}} 2`);
  });
});

describe('a server stream', () => {
  const frame = create(ServerFrameSchema, { frame: { case: 'heartbeat', value: {} } });

  test('arrives in order and ends', async () => {
    w = await world({
      async *receive() {
        for (let i = 0; i < 500; i++)
          yield { frame: create(ServerFrameSchema, { frame: { case: 'goingAway', value: { reconnectAfterMs: i } } }) };
      },
    });
    const got: unknown[] = [];
    for await (const { frame } of w.chat.receive({})) {
      if (frame?.frame.case === 'goingAway') got.push(frame.frame.value.reconnectAfterMs);
    }
    expect(got).toEqual(Array.from({ length: 500 }, (_, i) => i));
  });

  test('that fails brings what came before, then the error', async () => {
    w = await world({
      async *receive() {
        yield { frame };
        throw new MeshError('aborted', 'replaced');
      },
    });
    const stream = w.chat.receive({})[Symbol.asyncIterator]();
    expect((await stream.next()).value).toMatchObject({ frame });
    await expect(stream.next()).rejects.toMatchObject({ kind: 'aborted', message: 'replaced' });
  });

  test('left by its client, by leaving the loop or by its signal, ends at the handler', async () => {
    const ended: string[] = [];
    w = await world({
      async *receive(_request, { signal }) {
        yield { frame };
        await new Promise((resolve) => signal.addEventListener('abort', resolve));
        ended.push((signal.reason as MeshError).kind);
      },
    });
    for await (const _ of w.chat.receive({})) break;
    await until(() => ended.length === 1);
    const stop = new AbortController();
    const read = async () => {
      for await (const _ of w.chat.receive({}, { signal: stop.signal })) stop.abort();
    };
    await expect(read()).rejects.toMatchObject({ kind: 'cancelled' });
    await until(() => ended.length === 2);
    expect(ended).toEqual(['cancelled', 'cancelled']);
  });

  test('to a client that does not read stops its handler instead of filling the memory', async () => {
    let sent = 0;
    const big = create(ServerFrameSchema, { frame: { case: 'error', value: { message: 'x'.repeat(1024 * 1024) } } });
    w = await world({
      async *receive(_request, { signal }) {
        while (!signal.aborted) {
          sent++;
          yield { frame: big };
        }
      },
    });
    const stream = w.chat.receive({})[Symbol.asyncIterator]();
    await stream.next();
    let before = -1;
    while (before !== sent) {
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(sent).toBeLessThan(100);
    await stream.return?.();
  });
});
