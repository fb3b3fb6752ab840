import { randomUUID } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { ChatService, type ConnectRequestSchema } from '@chatmesh/gen/chat/v1/chat';
import { MessageStatus, type ServerFrame } from '@chatmesh/gen/chat/v1/frames';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { GroupService } from '@chatmesh/gen/user/v1/group';
import { KeyService } from '@chatmesh/gen/user/v1/key';
import { Code, ConnectError, createClient, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

type Frame = MessageInitShape<typeof ConnectRequestSchema>;

/** A stream of frames in both directions. */
class Stream {
  readonly frames: ServerFrame['frame'][] = [];
  error: ConnectError | undefined;
  ended = false;
  readonly #abort = new AbortController();
  readonly #out: Frame[] = [];
  #wake = () => {};

  constructor(transport: Transport, user: TestUser, readOnly = false) {
    const client = createClient(ChatService, transport);
    const options = { headers: { authorization: `Bearer ${user.token}` }, signal: this.#abort.signal };
    const frames = readOnly ? client.receive({}, options) : client.connect(this.#requests(), options);
    void this.#read(frames);
  }

  send(frame: NonNullable<Frame['frame']>['frame']): void {
    this.#out.push({ frame: { frame } } as Frame);
    this.#wake();
  }

  async frame<K extends string>(kind: K, fits: (value: never) => boolean = () => true): Promise<never> {
    const found = () => this.frames.find((f) => f.case === kind && fits(f.value as never));
    await until(() => found() !== undefined, { timeoutMs: 30_000, what: () => `${kind}; error ${this.error}` });
    return found()?.value as never;
  }

  close(): void {
    this.#abort.abort();
    this.#wake();
  }

  async *#requests(): AsyncGenerator<Frame> {
    while (!this.#abort.signal.aborted) {
      const next = this.#out.shift();
      if (next) yield next;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async #read(frames: AsyncIterable<{ frame?: ServerFrame | undefined }>): Promise<void> {
    try {
      for await (const { frame } of frames) if (frame) this.frames.push(frame.frame);
    } catch (error) {
      this.error = ConnectError.from(error);
    }
    this.ended = true;
  }
}

/** Section 3 of the wire contract: the same sessions over Connect, gRPC and gRPC-Web. */
describe('Connect, gRPC and gRPC-Web', () => {
  let mesh: TestMesh;
  const streams: Stream[] = [];

  beforeAll(async () => {
    mesh = await TestMesh.start();
  }, 400_000);
  afterAll(async () => {
    for (const stream of streams) stream.close();
    await mesh?.[Symbol.asyncDispose]();
  });

  const transports: [string, () => Transport][] = [
    ['Connect over HTTP/2', () => createConnectTransport({ baseUrl: mesh.h2Url, httpVersion: '2' })],
    ['Connect over HTTP/1.1', () => createConnectTransport({ baseUrl: mesh.httpUrl, httpVersion: '1.1' })],
    ['gRPC', () => createGrpcTransport({ baseUrl: mesh.h2Url })],
    ['gRPC-Web over HTTP/1.1', () => createGrpcWebTransport({ baseUrl: mesh.httpUrl, httpVersion: '1.1' })],
  ];
  const open = (transport: Transport, user: TestUser, readOnly = false) => {
    const stream = new Stream(transport, user, readOnly);
    streams.push(stream);
    return stream;
  };
  const send = (from: TestUser, to: string, content: string, clientMessageId = randomUUID()) => ({
    senderId: from.userId,
    target: { case: 'receiverId' as const, value: to },
    payload: { case: 'content' as const, value: content },
    clientMessageId,
  });

  test.each(transports)(
    '%s: send, deliver, acknowledge and ask for the status; a repeat is deduplicated',
    async (_, make) => {
      const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
      const client = createClient(ChatService, make());
      const as = (user: TestUser) => ({ headers: { authorization: `Bearer ${user.token}` } });
      const reader = open(make(), bob, true);
      await reader.frame('caughtUp');
      const message = send(ada, bob.userId, 'over a call');
      const { accepted } = await client.send({ message }, as(ada));
      const again = await client.send({ message }, as(ada));
      expect(again.accepted).toEqual({ ...accepted, deduplicated: true });
      const id = accepted?.serverMessageId as string;
      expect(await reader.frame('message', (m: { serverMessageId: string }) => m.serverMessageId === id)).toMatchObject(
        {
          senderId: ada.userId,
          payload: { case: 'content', value: 'over a call' },
        },
      );
      // Unary, by another connection than the one that has the message.
      const receipts = [{ status: MessageStatus.READ, serverMessageIds: [id] }];
      expect((await client.acknowledge({ receipts }, as(bob))).notFound).toEqual([]);
      await until(
        async () => {
          const { states } = await client.getStatus({ serverMessageIds: [id] }, as(ada));
          return states[0]?.status === MessageStatus.READ && states[0].deliveredAt !== undefined;
        },
        { what: 'read, which implies delivered' },
      );
      expect((await client.getStatus({ serverMessageIds: [id] }, as(bob))).states).toEqual([]);
      const other = { ...message, payload: { case: 'content' as const, value: 'other' } };
      const refused = await client.send({ message: other }, as(ada)).catch(ConnectError.from);
      expect((refused as ConnectError).code).toBe(Code.AlreadyExists);
      const foreign = await client.send({ message: send(bob, ada.userId, 'x') }, as(ada)).catch(ConnectError.from);
      expect((foreign as ConnectError).code).toBe(Code.PermissionDenied);
      const nobody = await client.getStatus({ serverMessageIds: [id] }).catch(ConnectError.from);
      expect((nobody as ConnectError).code).toBe(Code.Unauthenticated);
    },
  );

  test.each([transports[0], transports[2]] as typeof transports)('%s: a stream in both directions', async (_, make) => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = [open(make(), ada), open(make(), bob)];
    await a.frame('caughtUp');
    const message = send(ada, bob.userId, 'over a stream');
    a.send({ case: 'send', value: message });
    const { serverMessageId: id } = (await a.frame('accepted')) as { serverMessageId: string };
    await b.frame('message', (m: { serverMessageId: string }) => m.serverMessageId === id);
    b.send({ case: 'receipt', value: { status: MessageStatus.DELIVERED, serverMessageIds: [id] } });
    const receipt = (await a.frame('receipt')) as { eventId: string; clientMessageId: string };
    expect(receipt.clientMessageId).toBe(message.clientMessageId);
    a.send({ case: 'ack', value: { eventIds: [receipt.eventId] } });
    a.send({ case: 'send', value: { ...message, senderId: bob.userId } });
    expect(await a.frame('error')).toMatchObject({ code: 'permission_denied' });
    // Where the WebSocket closes with 4409, a stream ends as aborted.
    const newer = open(make(), ada);
    await newer.frame('caughtUp');
    await until(() => a.ended, { what: 'the end of the older stream' });
    expect(a.error?.code).toBe(Code.Aborted);
    // And with 1008, after ten bad frames, as invalid_argument.
    for (let i = 0; i < 10; i++) b.send({ case: 'ack', value: { eventIds: ['no UUID'] } });
    await until(() => b.ended, { what: 'the end after ten bad frames' });
    expect(b.error?.code).toBe(Code.InvalidArgument);
  });

  test('a device is one session whatever the protocol: a stream replaces its WebSocket', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const socket = await WireClient.connect(mesh.url, ada);
    await open(transports[2]?.[1]() as Transport, ada).frame('caughtUp');
    expect(await socket.closed()).toBe(4409);
  });

  test('internal services are not reachable through the edge, and what is not served yet is unimplemented', async () => {
    const transport = transports[2]?.[1]() as Transport;
    const codeOf = (call: Promise<unknown>) =>
      call.then(
        () => 'answered',
        (error) => ConnectError.from(error).code,
      );
    expect(await codeOf(createClient(InternalChatService, transport).getMessageStatus({}))).toBe(Code.Unimplemented);
    expect(await codeOf(createClient(GroupService, transport).createGroup({}))).toBe(Code.Unimplemented);
    expect(await codeOf(createClient(KeyService, transport).getKeys({}))).toBe(Code.Unimplemented);
  });
});

test('over the burst a call is resource_exhausted and says when to try again', async () => {
  await using mesh = await TestMesh.start({ env: { SEND_RATE: '1', SEND_BURST: '2' } });
  const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  const client = createClient(ChatService, createConnectTransport({ baseUrl: mesh.httpUrl, httpVersion: '1.1' }));
  const refused: ConnectError[] = [];
  for (let n = 0; n < 8; n++) {
    const message = {
      senderId: ada.userId,
      target: { case: 'receiverId' as const, value: bob.userId },
      payload: { case: 'content' as const, value: `n${n}` },
      clientMessageId: randomUUID(),
    };
    const call = client.send({ message }, { headers: { authorization: `Bearer ${ada.token}` } });
    await call.catch((error) => refused.push(ConnectError.from(error)));
  }
  expect(refused.length).toBeGreaterThan(0);
  for (const { code, metadata } of refused) {
    expect(code).toBe(Code.ResourceExhausted);
    expect(Number(metadata.get('retry-after-ms'))).toBeGreaterThan(0);
  }
}, 400_000);
