import { once } from 'node:events';
import { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { CuttableWire } from '../cuttable-wire.js';
import { LocalMesh } from '../local-mesh.js';
import { until } from '../mesh.js';

/** Several turns of an event loop that server, wire and clients share here. */
const PING_EVERY_MS = 1_000;

describe('a client that goes without a word', () => {
  let mesh: LocalMesh;
  beforeAll(async () => {
    mesh = await LocalMesh.start({ edge: { patience: { pingEveryMs: PING_EVERY_MS } } });
  }, 400_000);
  afterAll(() => mesh?.[Symbol.asyncDispose]());

  test('its session ends by pings that are not answered, whatever the protocol, and until then it lives', async () => {
    const users = await mesh.users(4);
    const count = () => users.map(({ userId }) => mesh.edge.sessions.countOf(userId));
    await using wire = await CuttableWire.to(mesh.edge.h2Port);
    const abort = new AbortController();
    // biome-ignore lint/correctness/useYield: a client that has nothing to say, and does not end.
    async function* silence(): AsyncGenerator<never> {
      await once(abort.signal, 'abort');
    }
    const reading = users.map(async ({ token }, n) => {
      const options = { headers: { authorization: `Bearer ${token}` }, signal: abort.signal };
      const baseUrl = `http://127.0.0.1:${wire.port}`;
      const transport =
        n < 2 ? createGrpcTransport({ baseUrl }) : createConnectTransport({ baseUrl, httpVersion: '2' });
      const client = createClient(ChatService, transport);
      const frames = n % 2 === 0 ? client.receive({}, options) : client.connect(silence(), options);
      for await (const _frame of frames);
    });
    await until(() => count().every((n) => n === 1), { what: () => `four sessions; there are ${count()}` });
    await new Promise((resolve) => setTimeout(resolve, 3 * PING_EVERY_MS));
    expect(count()).toEqual([1, 1, 1, 1]);
    wire.cut();
    await until(() => count().every((n) => n === 0), { what: () => `their end; there are ${count()}` });
    abort.abort();
    await Promise.allSettled(reading);
  });
});
