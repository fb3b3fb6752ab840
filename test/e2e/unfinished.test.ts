import { constants } from 'node:http2';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { dialHttp2, RawHttp, RawStream } from '../raw-http.js';

const SEND = '/chat.v1.ChatService/Send';
const HEAD = `POST ${SEND} HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n`;
const PATIENCE = { headersMs: 400, requestMs: 600, idleMs: 1_500, idleHttp2Ms: 1_000, pingEveryMs: 1_000 };

describe('a client that never finishes', () => {
  let mesh: LocalMesh;
  let ada: TestUser;

  beforeAll(async () => {
    mesh = await LocalMesh.start({ edge: { patience: PATIENCE } });
    [ada] = (await mesh.users(1)) as [TestUser];
  }, 400_000);
  afterAll(() => mesh?.[Symbol.asyncDispose]());

  const bearer = () => ({ authorization: `Bearer ${ada.token}` });

  test.each([
    ['says nothing', ''],
    ['stops within its first line', 'POST /chat'],
    ['stops within its headers', HEAD],
  ])('%s: its HTTP/1.1 connection is closed', async (_, text) => {
    using client = new RawHttp(mesh.edge.port);
    client.write(text);
    await client.ended();
    if (text !== '') expect(client.statuses).toEqual([408]);
  });

  test.each([
    ['says nothing', ''],
    ['stops within the preface', 'PRI * HTTP/2.0\r\n'],
    ['sends the preface alone', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
  ])('%s: its HTTP/2 connection is closed', async (_, text) => {
    using client = new RawHttp(mesh.edge.h2Port);
    client.write(text);
    await client.ended();
  });

  test('has a token and no body: its call ends as deadline_exceeded, a byte now and then does not help', async () => {
    using client = new RawHttp(mesh.edge.port);
    client.write(`${HEAD}Authorization: Bearer ${ada.token}\r\nContent-Length: 10000\r\n\r\n{`);
    const drip = setInterval(() => client.write(' '), 50);
    expect(await client.answers(1)).toEqual([504]);
    expect(client.text).toContain('"code":"deadline_exceeded"');
    await client.ended();
    clearInterval(drip);
  });

  test.each([
    ['gRPC', SEND, 'application/grpc+proto', '4'],
    ['gRPC, a stream of answers', '/chat.v1.ChatService/Receive', 'application/grpc', '4'],
    ['gRPC-Web', SEND, 'application/grpc-web+proto', 'grpc-status: 4'],
    ['Connect', SEND, 'application/proto', '"code":"deadline_exceeded"'],
    [
      'Connect, a stream of answers',
      '/chat.v1.ChatService/Receive',
      'application/connect+json',
      '"code":"deadline_exceeded"',
    ],
    [
      'without a token where none is needed',
      '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      'application/grpc',
      '4',
    ],
  ])('%s over HTTP/2: the call ends as deadline_exceeded, and its stream with it', async (_, path, type, said) => {
    const session = dialHttp2(mesh.edge.h2Port);
    const call = new RawStream(session, path, { 'content-type': type, ...bearer() });
    call.stream.write(Buffer.from([0, 0]));
    await call.ended();
    if (said === '4') expect(call.headers['grpc-status']).toBe('4');
    else expect(call.text).toContain(said);
    session.destroy();
  });

  test('the page and unknown paths wait for no body either', async () => {
    const session = dialHttp2(mesh.edge.h2Port);
    for (const path of ['/', '/connect', '/nowhere', '/chat.v1.ChatService/Nothing'])
      await new RawStream(session, path, { 'content-type': 'application/grpc' }).ended();
    session.destroy();
    using client = new RawHttp(mesh.edge.port);
    client.write('POST /nowhere HTTP/1.1\r\nHost: edge\r\nContent-Length: 10\r\n\r\n');
    expect((await client.answers(1))[0]).toBe(404);
    await client.ended();
  });

  test('takes nothing of its answer: the connection, or over HTTP/2 the stream, ends', async () => {
    const session = dialHttp2(mesh.edge.h2Port, { initialWindowSize: 0 });
    const page = session.request({ ':path': '/' }).on('error', () => {});
    let closed = false;
    page.on('close', () => {
      closed = true;
    });
    page.end();
    await until(() => closed, { what: 'the end of the stream' });
    session.destroy();
    using client = new RawHttp(mesh.edge.port);
    client.socket.pause();
    // More pages than the buffers of both kernels have room for. Who does not read learns of the end by writing.
    const ask = () => client.write('GET /page.js HTTP/1.1\r\nHost: edge\r\n\r\n');
    for (let n = 0; n < 5_000; n++) ask();
    await until(() => ask().closed, { what: 'the end of the connection' });
  });

  test('an HTTP/2 connection without a stream is closed, gracefully, and one with a stream is not', async () => {
    const idle = dialHttp2(mesh.edge.h2Port);
    const busy = dialHttp2(mesh.edge.h2Port);
    const stream = new RawStream(busy, '/chat.v1.ChatService/Connect', {
      'content-type': 'application/grpc',
      ...bearer(),
    });
    let code: number | undefined;
    idle.on('goaway', (given) => {
      code = given;
    });
    await until(() => idle.closed, { what: 'the end of the idle connection' });
    expect(code).toBe(constants.NGHTTP2_NO_ERROR);
    expect(busy.closed).toBe(false);
    // A stream of requests of a caller who was admitted outlives what a single request may take.
    expect(stream.closed).toBe(false);
    expect(mesh.edge.sessions.size).toBe(1);
    busy.destroy();
    await until(() => mesh.edge.sessions.size === 0, { what: 'the end of the session' });
  });

  test('a WebSocket outlives every time-out of requests', async () => {
    const socket = await WireClient.connect(mesh.url, ada);
    const other = dialHttp2(mesh.edge.h2Port);
    // So long as an idle connection of either kind lives.
    await until(() => other.closed, { what: 'the end of the idle connection' });
    await new Promise((resolve) => setTimeout(resolve, PATIENCE.idleMs));
    expect(socket.closeCode).toBeUndefined();
    await socket.close();
  });
});

describe('a client that asks for too much', () => {
  let mesh: LocalMesh;
  beforeAll(async () => {
    mesh = await LocalMesh.start();
  }, 400_000);
  afterAll(() => mesh?.[Symbol.asyncDispose]());

  test.each([
    ['Connect', SEND, 'application/json', '"code":"unauthenticated"'],
    ['Connect, protobuf', SEND, 'application/proto', '"code":"unauthenticated"'],
    ['gRPC', SEND, 'application/grpc', '16'],
    ['gRPC-Web', SEND, 'application/grpc-web+proto', '16'],
    ['gRPC, a stream of answers', '/chat.v1.ChatService/Receive', 'application/grpc+proto', '16'],
    ['gRPC, a stream both ways', '/chat.v1.ChatService/Connect', 'application/grpc', '16'],
    [
      'Connect, a stream of answers',
      '/chat.v1.ChatService/Receive',
      'application/connect+proto',
      '"code":"unauthenticated"',
    ],
    [
      'Connect, a stream both ways',
      '/chat.v1.ChatService/Connect',
      'application/connect+json',
      '"code":"unauthenticated"',
    ],
  ])(
    '%s: without a token the answer is unauthenticated, and nobody waits for the body',
    async (_, path, type, said) => {
      const session = dialHttp2(mesh.edge.h2Port);
      const refused = [undefined, 'Bearer nonsense', 'Basic YTpi'].map(async (authorization) => {
        const call = new RawStream(session, path, { 'content-type': type, ...(authorization && { authorization }) });
        // No message: the answer to it would be another one.
        call.stream.write('no message of any kind');
        await call.ended();
        if (said === '16') expect(call.headers['grpc-status']).toBe('16');
        else expect(call.text).toContain(said);
      });
      await Promise.all(refused);
      session.destroy();
    },
  );

  test('a good token and a bad body is invalid_argument; without a token it is unauthenticated, over HTTP/1.1 too', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    using client = new RawHttp(mesh.edge.port);
    client.write(`${HEAD}Content-Length: 1\r\n\r\n{`);
    client.write(`${HEAD}Authorization: Bearer ${ada.token}\r\nContent-Length: 1\r\n\r\n{`);
    expect(await client.answers(2)).toEqual([401, 400]);
    expect(client.text).toContain('"code":"unauthenticated"');
    expect(client.text).toContain('"code":"invalid_argument"');
  });

  test('a request that names no host, or none that can be, is answered, and the edge lives', async () => {
    const { port, h2Port } = mesh.edge;
    for (const head of [
      `POST ${SEND} HTTP/1.0\r\n`,
      `POST ${SEND} HTTP/1.1\r\nHost: [\r\n`,
      'GET / HTTP/1.0\r\n',
      'GET / HTTP/1.1\r\nHost: [\r\n',
    ]) {
      using client = new RawHttp(port);
      client.write(`${head}Content-Type: application/json\r\n\r\n`);
      expect((await client.answers(1))[0]).toBe(head.startsWith('GET') ? 200 : 400);
    }
    const session = dialHttp2(h2Port);
    const headers = { ':authority': '[', 'content-type': 'application/grpc' };
    expect((await new RawStream(session, SEND, headers).ended()).headers['grpc-status']).toBe('3');
    session.destroy();
  });

  test('has 256 streams on an HTTP/2 connection; more wait for their turn', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const session = dialHttp2(mesh.edge.h2Port);
    await until(() => session.remoteSettings?.maxConcurrentStreams === 256, {
      what: () => `the bound; there is ${JSON.stringify(session.remoteSettings)}`,
    });
    const headers = { 'content-type': 'application/grpc', authorization: `Bearer ${ada.token}` };
    const calls = Array.from({ length: 300 }, () => new RawStream(session, SEND, headers));
    const first = calls[0] as RawStream;
    const last = calls[299] as RawStream;
    await until(() => first.stream.sentHeaders !== undefined && !first.stream.pending, { what: 'the first stream' });
    last.stream.end();
    // It is not asked before others have gone.
    for (const call of calls.slice(0, 100)) call.stream.close(constants.NGHTTP2_CANCEL);
    await last.ended();
    expect(last.headers['grpc-status']).toBe('12');
    session.destroy();
  });

  test('opens streams and resets them at once: its connection ends, and the others do not notice', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const socket = await WireClient.connect(mesh.url, ada);
    const session = dialHttp2(mesh.edge.h2Port);
    let goneAway = false;
    session.on('goaway', () => {
      goneAway = true;
    });
    for (let n = 0; n < 100 && !goneAway && !session.closed; n++) {
      for (let i = 0; i < 100; i++) {
        if (session.closed || session.destroyed) break;
        new RawStream(session, SEND, { 'content-type': 'application/grpc' }).stream.close(constants.NGHTTP2_CANCEL);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => goneAway || session.closed, { what: 'the end of the connection' });
    session.destroy();
    const id = socket.message(ada, 'still here');
    expect((await socket.answer(id)).status).toBe('sent');
    await socket.close();
  });
});

test('the connections of an address are bounded where that is set', async () => {
  await using mesh = await LocalMesh.start({ env: { MAX_CONNECTIONS_PER_ADDRESS: '3' } });
  const [ada] = (await mesh.users(1)) as [TestUser];
  const socket = await WireClient.connect(mesh.url, ada);
  const open = [new RawHttp(mesh.edge.port), new RawHttp(mesh.edge.h2Port)];
  const tooMany = [new RawHttp(mesh.edge.port), new RawHttp(mesh.edge.h2Port)];
  for (const client of tooMany) await client.ended();
  expect(open.map(({ closed }) => closed)).toEqual([false, false]);
  for (const client of open) client.socket.destroy();
  // There is room again for as many as have gone.
  const again = async () => {
    const client = new RawHttp(mesh.edge.port);
    client.write('GET / HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n');
    await until(() => client.closed, { what: 'the end of a connection' });
    return client.statuses[0] === 200;
  };
  await until(again, { what: 'room for another connection' });
  await socket.close();
}, 400_000);
