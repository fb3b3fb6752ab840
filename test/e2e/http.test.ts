import { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { createClient as createGrpcClient, createLogger, HealthService, type MeshError } from '@chatmesh/mesh';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { dialHttp2, RawHttp, RawStream } from '../raw-http.js';

const logger = createLogger({ name: 'test', level: 'silent' });
/** What a WebSocket's handshake needs besides the token. */
const HANDSHAKE = 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
const H2C = 'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n';

/** What the edge's ports say to clients of every kind, as the wire contract has it in sections 2 and 3. */
let mesh: LocalMesh;
let ada: TestUser;
beforeAll(async () => {
  mesh = await LocalMesh.start();
  [ada] = (await mesh.users(1)) as [TestUser];
}, 400_000);
afterAll(() => mesh?.[Symbol.asyncDispose]());

describe('an Upgrade header of another protocol is as if it were not there', () => {
  const send = () =>
    JSON.stringify({
      message: {
        senderId: ada.userId,
        receiverId: ada.userId,
        content: 'é'.repeat(900),
        clientMessageId: crypto.randomUUID(),
      },
    });
  const post = (headers: string, body: string) =>
    `POST /chat.v1.ChatService/Send HTTP/1.1\r\nHost: edge\r\n${headers}Authorization: Bearer ${ada.token}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${Buffer.from(body).toString('latin1')}`;

  test('the page, another path and /connect', async () => {
    for (const [path, status] of [
      ['/', 200],
      ['/nowhere', 404],
      ['/connect', 426],
    ] as const) {
      using client = new RawHttp(mesh.edge.port);
      client.write(`GET ${path} HTTP/1.1\r\nHost: edge\r\n${H2C}\r\n`);
      expect(await client.answers(1)).toEqual([status]);
    }
  });

  test('a call with a body, in one piece or many, and further requests on the same connection', async () => {
    using client = new RawHttp(mesh.edge.port);
    // Two at once, the second has the header as well.
    client.write(post(H2C, send()) + post(H2C, send()));
    expect(await client.answers(2)).toEqual([200, 200]);
    const text = post(H2C, send());
    for (let at = 0; at < text.length; at += 100) {
      client.write(text.slice(at, at + 100));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await client.answers(3)).toEqual([200, 200, 200]);
    client.write(post('', send()));
    expect(await client.answers(4)).toEqual([200, 200, 200, 200]);
    // And at last it becomes a WebSocket.
    client.write(
      `GET /connect HTTP/1.1\r\nHost: edge\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c, WebSocket\r\nAuthorization: Bearer ${ada.token}\r\n${HANDSHAKE}\r\n`,
    );
    expect((await client.answers(5))[4]).toBe(101);
  });

  test('a body in chunks, and one that has to be asked for', async () => {
    const body = Buffer.from(send()).toString('latin1');
    const head = `POST /chat.v1.ChatService/Send HTTP/1.1\r\nHost: edge\r\n${H2C}Authorization: Bearer ${ada.token}\r\nContent-Type: application/json\r\n`;
    using chunked = new RawHttp(mesh.edge.port);
    chunked.write(`${head}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
    expect(await chunked.answers(1)).toEqual([200]);
    using careful = new RawHttp(mesh.edge.port);
    careful.write(`${head}Expect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n`);
    expect(await careful.answers(1)).toEqual([100]);
    careful.write(body);
    expect(await careful.answers(2)).toEqual([100, 200]);
  });

  test('Connection: close is heeded', async () => {
    using client = new RawHttp(mesh.edge.port);
    client.write('GET / HTTP/1.1\r\nHost: edge\r\nConnection: close, Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n');
    await client.ended();
    expect(client.statuses).toEqual([200]);
  });
});

describe('a target in absolute form', () => {
  test.each([
    ['the page', 'GET http://edge.example/ HTTP/1.1\r\n', 200],
    ['the page, without a path', 'GET http://edge.example HTTP/1.1\r\n', 200],
    ['without an upgrade', 'GET http://edge.example:8080/connect?x=1 HTTP/1.1\r\n', 426],
    ['another path', 'GET https://edge.example/nowhere HTTP/1.1\r\n', 404],
    [
      'a call',
      'POST http://edge.example/chat.v1.ChatService/GetStatus HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 0\r\n',
      401,
    ],
  ])('%s', async (_, head, status) => {
    using client = new RawHttp(mesh.edge.port);
    client.write(`${head}Host: edge.example\r\n\r\n`);
    expect(await client.answers(1)).toEqual([status]);
  });

  test('of a WebSocket', async () => {
    using client = new RawHttp(mesh.edge.port);
    client.write(
      `GET http://edge.example/connect HTTP/1.1\r\nHost: edge.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer ${ada.token}\r\n${HANDSHAKE}\r\n`,
    );
    expect(await client.answers(1)).toEqual([101]);
  });
});

describe('a method that is not there is unimplemented in the words of the protocol', () => {
  test.each([
    ['gRPC', 'application/grpc'],
    ['gRPC', 'application/grpc+proto'],
    ['gRPC-Web', 'application/grpc-web+proto'],
    ['gRPC-Web', 'application/grpc-web-text'],
  ])('%s, %s', async (_, type) => {
    const session = dialHttp2(mesh.edge.h2Port);
    for (const path of ['/chat.v1.ChatService/Nothing', '/no.such.Service/Method', '/chat.v1.RouterService/Route']) {
      const call = new RawStream(session, path, { 'content-type': type });
      call.stream.end();
      await call.ended();
      expect(call.headers).toMatchObject({ ':status': 200, 'content-type': type, 'grpc-status': '12' });
      expect(call.text).toBe('');
    }
    session.destroy();
  });

  test('grpc-js understands it', async () => {
    const client = new Client(`127.0.0.1:${mesh.edge.h2Port}`, credentials.createInsecure());
    const same = (bytes: Buffer) => bytes;
    const code = await new Promise((resolve) =>
      client.makeUnaryRequest('/chat.v1.ChatService/Nothing', same, same, Buffer.alloc(0), (error) =>
        resolve(error?.code),
      ),
    );
    client.close();
    expect(code).toBe(12);
  });

  test('Connect: 404, with the code in the body', async () => {
    for (const type of ['application/json', 'application/proto']) {
      const response = await fetch(`http://127.0.0.1:${mesh.edge.port}/no.such.Service/Method`, {
        method: 'POST',
        headers: { 'content-type': type },
        body: '{}',
      });
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({ code: 'unimplemented' });
    }
    const session = dialHttp2(mesh.edge.h2Port);
    const call = new RawStream(session, '/no.such.Service/Method', { 'content-type': 'application/connect+json' });
    call.stream.end();
    await call.ended();
    expect(call.headers[':status']).toBe(200);
    expect(JSON.parse(call.text.slice(5))).toEqual({
      error: { code: 'unimplemented', message: 'no such service or method' },
    });
    session.destroy();
  });

  test('a path that is no call is not found, over HTTP/2 as well', async () => {
    const session = dialHttp2(mesh.edge.h2Port);
    for (const [path, status] of [
      ['/nowhere', 404],
      ['/connect', 426],
    ] as const) {
      const call = new RawStream(session, path, {});
      call.stream.end();
      expect((await call.ended()).headers[':status']).toBe(status);
    }
    session.destroy();
  });
});

test.each([
  ['Connect over HTTP/1.1', createConnectTransport],
  ['gRPC-Web over HTTP/1.1', createGrpcWebTransport],
])('%s: a stream may be neither stored nor held back', async (_, transport) => {
  let header = new Headers();
  const abort = new AbortController();
  const options = {
    headers: { authorization: `Bearer ${ada.token}` },
    signal: abort.signal,
    onHeader: (given: Headers) => {
      header = given;
    },
  };
  const client = createClient(
    ChatService,
    transport({ baseUrl: `http://127.0.0.1:${mesh.edge.port}`, httpVersion: '1.1' }),
  );
  for await (const _frame of client.receive({}, options)) break;
  abort.abort();
  expect(header.get('cache-control')).toBe('no-store');
  expect(header.get('x-accel-buffering')).toBe('no');
});

describe('health', () => {
  const dial = () =>
    createGrpcClient(HealthService, { address: `127.0.0.1:${mesh.edge.h2Port}`, logger }) as never as HealthClient;

  test('the edge and each public service are serving; what is not public is not known', async () => {
    const health = dial();
    for (const service of ['', 'chat.v1.ChatService', 'user.v1.KeyService', 'grpc.health.v1.Health'])
      expect(await health.check({ service })).toMatchObject({ status: 1 });
    for (const service of ['chat.v1.RouterService', 'user.v1.DirectoryService', 'nonsense']) {
      const error = await health.check({ service }).catch((e: MeshError) => e);
      expect((error as MeshError).kind).toBe('not_found');
    }
    health.close();
  });

  test('over Connect with JSON, too', async () => {
    const response = await fetch(`http://127.0.0.1:${mesh.edge.port}/grpc.health.v1.Health/Check`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    });
    expect(await response.json()).toEqual({ status: 'SERVING' });
  });

  test('who watches is told when the edge drains, and who asks then is told the same', async () => {
    await using mesh = await LocalMesh.start();
    const health = createGrpcClient(HealthService, {
      address: `127.0.0.1:${mesh.edge.h2Port}`,
      logger,
    }) as never as HealthClient;
    const told: number[] = [];
    const watching = (async () => {
      for await (const { status } of health.watch({ service: 'chat.v1.ChatService' })) told.push(status);
    })().catch(() => {});
    await until(() => told.length > 0, { what: 'the first status' });
    expect(told).toEqual([1]);
    await mesh.edge.drain(1_000);
    await until(() => told.length > 1, { what: 'the change' });
    expect(told).toEqual([1, 2]);
    expect(await health.check({ service: '' })).toMatchObject({ status: 2 });
    health.close();
    await watching;
  }, 400_000);
});

describe('reflection', () => {
  test.each(['grpc.reflection.v1', 'grpc.reflection.v1alpha'])(
    '%s lists what is public and describes it',
    async (version) => {
      const client = new Client(`127.0.0.1:${mesh.edge.h2Port}`, credentials.createInsecure());
      const same = (bytes: Buffer) => bytes;
      const ask = (question: Buffer) =>
        new Promise<string>((resolve, reject) => {
          const path = `/${version}.ServerReflection/ServerReflectionInfo`;
          const call = client.makeBidiStreamRequest(path, same, same, new Metadata());
          call.on('data', (bytes: Buffer) => {
            resolve(bytes.toString('latin1'));
            call.end();
          });
          call.on('error', reject);
          call.write(question);
        });
      const field = (number: number, text: string) =>
        Buffer.concat([Buffer.from([(number << 3) | 2, text.length]), Buffer.from(text)]);
      const services = await ask(field(7, ''));
      for (const name of [
        'chat.v1.ChatService',
        'user.v1.AuthService',
        'presence.v1.PresenceService',
        'grpc.health.v1.Health',
      ])
        expect(services).toContain(name);
      for (const name of ['RouterService', 'InternalChatService', 'DirectoryService', 'AdminService', 'SessionService'])
        expect(services).not.toContain(name);
      expect(await ask(field(4, 'chat.v1.ChatService'))).toContain('GetStatus');
      expect(await ask(field(4, 'chat.v1.RouterService'))).toContain('chat.v1.RouterService is not known here');
      client.close();
    },
  );
});

interface HealthClient {
  check(request: { service: string }): Promise<{ status: number }>;
  watch(request: { service: string }): AsyncIterable<{ status: number }>;
  close(): void;
}
