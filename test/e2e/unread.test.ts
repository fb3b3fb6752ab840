import { randomUUID } from 'node:crypto';
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { ConnectRequestSchema } from '@chatmesh/gen/chat/v1/chat';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { DeafSocket, pingFrame, textFrame } from '../raw-socket.js';

const MIB = 1024 * 1024;
/** Above a MiB nothing is read; what one read has brought is still answered. */
const MAX_OWED_BYTES = 2.5 * MIB;
const FLOOD_BYTES = 256 * 1024;
/** Many times what the kernel takes for a client that reads nothing, and what ends one that sends bad frames. */
const FLOODS = 250;
const BAD_FLOODS = 32;
/** A text of 4 KB is a thousand characters of four bytes each. */
const LONG_TEXT = '😀'.repeat(1_000);
const NEVER_MS = 2 ** 31 - 1;

type Frame = MessageInitShape<typeof ConnectRequestSchema>;

/** Promise 7 of the wire contract, for everything that is owed to a client. */
describe('a client that does not read', () => {
  let mesh: LocalMesh;

  beforeAll(async () => {
    // Nothing here may wait for a timer.
    mesh = await LocalMesh.start({ env: { AUTH_HS256_SECRET: SECRET, SEND_RATE: '0' }, edge: { turnMs: NEVER_MS } });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  const sessionOf = ({ userId }: TestUser) => mesh.edge.sessions.of(userId)[0];
  const owedTo = (user: TestUser) => sessionOf(user)?.sink.bufferedBytes ?? 0;

  /** Two who chat while somebody floods. */
  async function chatting() {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
    return async (text: string) => {
      const { server_message_id: id } = await a.answer(a.message(bob, text));
      await b.frame((f) => f.server_message_id === id && f.content === text, text);
      b.confirm('delivered', id);
    };
  }

  const uuid = randomUUID();
  const bad: [string, string][] = [
    ['what is no JSON', '{'],
    ['typing', JSON.stringify({ typing: { receiver_id: uuid, active: true } })],
    ['presence', JSON.stringify({ presence: { subscribe: [uuid] } })],
    ['receipts of unknown ids', JSON.stringify({ status: 'read', server_message_ids: Array(200).fill(uuid) })],
    ['tokens that do not verify', JSON.stringify({ auth: { token: 'nonsense' } })],
  ];

  test.each(bad)('floods with %s: ten in a row are the end, and nothing grows', async (_what, frame) => {
    const [user] = (await mesh.users(1)) as [TestUser];
    const chat = await chatting();
    const flooder = await DeafSocket.connect(mesh.url, user);
    let most = 0;
    const one = textFrame(frame);
    const frames = Buffer.concat(Array(Math.ceil(FLOOD_BYTES / one.length)).fill(one));
    await flooder.flood(frames, BAD_FLOODS, () => {
      most = Math.max(most, owedTo(user));
      return sessionOf(user) === undefined || most > MAX_OWED_BYTES;
    });
    await until(() => sessionOf(user) === undefined, { what: () => `the end; ${most} bytes owed` });
    expect(most).toBeLessThan(MAX_OWED_BYTES);
    await chat('meanwhile');
    flooder.tcp.destroy();
  });

  const refused = (fields: object) =>
    textFrame(JSON.stringify({ sender_id: uuid, receiver_id: uuid, content: 'x', client_message_id: uuid, ...fields }));
  const answered: [string, (user: TestUser) => Buffer][] = [
    ['messages in the name of another', () => refused({})],
    ['messages to nobody', (user) => refused({ sender_id: user.userId })],
    [
      'nine bad frames and a good one',
      (user) => Buffer.concat([...Array(9).fill(textFrame('{')), refused({ sender_id: user.userId })]),
    ],
  ];

  test.each(answered)('floods with %s: it is not read any more, and others are', async (_what, frameOf) => {
    const [user] = (await mesh.users(1)) as [TestUser];
    const chat = await chatting();
    const flooder = await DeafSocket.connect(mesh.url, user);
    const one = frameOf(user);
    const frames = Buffer.concat(Array(Math.ceil(FLOOD_BYTES / one.length)).fill(one));
    let most = 0;
    const result = await flooder.flood(frames, FLOODS, () => {
      most = Math.max(most, owedTo(user));
      return sessionOf(user)?.paused === true && owedTo(user) > MIB;
    });
    await chat('one');
    await chat('two');
    expect([result, owedTo(user) < MAX_OWED_BYTES, sessionOf(user)?.paused]).toEqual(['enough', true, true]);
    expect(most).toBeLessThan(MAX_OWED_BYTES);
    // It reads after all, and is read again: everything that it sent is answered.
    let bytes = 0;
    flooder.tcp.on('data', (data) => {
      bytes += data.length;
    });
    flooder.tcp.resume();
    await until(() => sessionOf(user)?.paused === false && owedTo(user) === 0, { what: 'all answers' });
    expect(bytes).toBeGreaterThan(MIB);
    flooder.tcp.destroy();
  });

  test('floods with pings: what is owed stays small', async () => {
    const [user] = (await mesh.users(1)) as [TestUser];
    const chat = await chatting();
    const flooder = await DeafSocket.connect(mesh.url, user);
    let most = 0;
    await flooder.flood(Buffer.concat(Array(2_000).fill(pingFrame(125))), FLOODS, () => {
      most = Math.max(most, owedTo(user));
      return sessionOf(user) === undefined || sessionOf(user)?.paused === true;
    });
    await chat('meanwhile');
    expect(most).toBeLessThan(MAX_OWED_BYTES);
    flooder.tcp.destroy();
  });

  test.each(['application/grpc', 'application/connect+proto'])(
    'a stream of %s that does not read is not read either, and goes on when it reads',
    async (type) => {
      const [user] = (await mesh.users(1)) as [TestUser];
      const chat = await chatting();
      await using flooder = new DeafStream(mesh.edge.h2Port, user, type);
      const foreign = { senderId: uuid, target: { case: 'receiverId' as const, value: uuid }, clientMessageId: uuid };
      const payload = { case: 'content' as const, value: 'x' };
      const frames = envelopes({ case: 'send', value: { ...foreign, payload } }, 1_000);
      let most = 0;
      await until(() => sessionOf(user) !== undefined, { what: 'the session' });
      for (let n = 0; n < FLOODS && !(sessionOf(user)?.paused && owedTo(user) > MIB); n++) {
        if (!flooder.stream.write(frames)) await flooder.taken(() => sessionOf(user)?.paused === true);
        most = Math.max(most, owedTo(user));
      }
      await chat('one');
      await chat('two');
      expect([sessionOf(user)?.paused, most > MIB, most < MAX_OWED_BYTES]).toEqual([true, true, true]);
      flooder.stream.resume();
      await until(() => sessionOf(user)?.paused === false && owedTo(user) === 0, { what: 'all answers' });
    },
  );

  test('ten bad frames in a row end a stream', async () => {
    const [user] = (await mesh.users(1)) as [TestUser];
    await using flooder = new DeafStream(mesh.edge.h2Port, user, 'application/grpc');
    await until(() => sessionOf(user) !== undefined, { what: 'the session' });
    flooder.stream.write(
      envelopes({ case: 'typing', value: { target: { case: 'receiverId', value: uuid }, active: true } }, 10),
    );
    await until(() => sessionOf(user) === undefined, { what: 'the end' });
    flooder.stream.resume();
    await until(() => flooder.status !== undefined, { what: 'the status' });
    expect(flooder.status).toBe('3');
  });

  test('ten bad frames in a row close with 1008, of each kind; what is refused to a message does not count', async () => {
    for (const [, frame] of bad) {
      const [user] = (await mesh.users(1)) as [TestUser];
      const client = await WireClient.connect(mesh.url, user);
      for (let n = 1; n <= 10; n++) {
        client.send(frame);
        await until(() => client.frames.filter((f) => f.error).length === n || client.closeCode !== undefined);
        if (n < 10) expect(client.closeCode).toBeUndefined();
      }
      expect(await client.closed()).toBe(1008);
    }
    const [user] = (await mesh.users(1)) as [TestUser];
    const client = await WireClient.connect(mesh.url, user);
    for (let n = 0; n < 12; n++)
      expect((await client.answer(client.message(randomUUID(), 'x'))).error.code).toBe('not_found');
    const foreign = { sender_id: randomUUID(), receiver_id: user.userId, content: 'x' };
    for (let n = 1; n <= 12; n++) client.send({ ...foreign, client_message_id: randomUUID() });
    await until(() => client.frames.filter((f) => f.error?.code === 'permission_denied').length === 12);
    expect((await client.answer(client.message(user, 'still open'))).status).toBe('sent');
  });

  test('a receipt that is good, or a message that comes, starts the count again', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
    const refusals = () => b.frames.filter((f) => f.error).length;
    const nine = async (frame: object) => {
      for (let n = refusals() + 9; refusals() < n; ) {
        const before = refusals();
        b.send(frame);
        await until(() => refusals() > before, { what: 'a refusal' });
      }
    };
    for (let round = 0; round < 2; round++) {
      await nine({ typing: { receiver_id: ada.userId, active: true } });
      await nine({ status: 'read', server_message_id: randomUUID() });
      const { server_message_id: id } = await a.answer(a.message(bob, `round ${round}`));
      await b.frame((f) => f.server_message_id === id, 'the message');
      b.confirm('read', id);
      await a.frame((f) => f.status === 'read' && f.server_message_id === id, 'the receipt');
    }
    expect(b.closeCode).toBeUndefined();
  });

  test('a backlog of 2,000 messages of 4 KB is drained without waiting for a timer', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const bob = await deviceOf({ userId: randomUUID() });
    await (await WireClient.connect(mesh.url, bob)).close();
    const a = await WireClient.connect(mesh.url, ada);
    const ids = Array.from({ length: 2_000 }, () => a.message(bob, LONG_TEXT));
    await until(() => a.frames.filter((f) => f.status === 'sent').length === ids.length, { what: 'all accepted' });
    const b = await WireClient.connect(mesh.url, bob);
    b.socket.on('message', (data) => {
      const { content, server_message_id: id } = JSON.parse(String(data));
      if (content !== undefined) b.confirm('delivered', id);
    });
    await b.frame((f) => f.caught_up, 'caught_up');
    expect(new Set(b.messages.map((m) => m.server_message_id)).size).toBe(2_000);
    expect(b.messages.every((m) => m.content === LONG_TEXT)).toBe(true);
  });
});

/** A Connect stream of which nothing is read. */
class DeafStream implements AsyncDisposable {
  readonly stream: ClientHttp2Stream;
  /** gRPC's, at the end. */
  status: string | undefined;
  readonly #session: ClientHttp2Session;

  constructor(port: number, user: TestUser, type: string) {
    this.#session = connect(`http://127.0.0.1:${port}`);
    this.#session.on('error', () => {});
    this.stream = this.#session.request({
      ':method': 'POST',
      ':path': '/chat.v1.ChatService/Connect',
      'content-type': type,
      te: 'trailers',
      authorization: `Bearer ${user.token}`,
    });
    this.stream.on('error', () => {});
    this.stream.on('trailers', (trailers) => {
      this.status = String(trailers['grpc-status']);
    });
  }

  /** Resolves when the server has taken what was written, or `enough` says so. */
  async taken(enough: () => boolean): Promise<void> {
    await until(() => !this.stream.writableNeedDrain || this.stream.destroyed || enough(), { what: 'room' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#session.destroy();
  }
}

/** A frame of a client as it stands on the wire in all protocols, so many times. */
function envelopes(frame: NonNullable<Frame['frame']>['frame'], count: number): Buffer {
  const message = toBinary(ConnectRequestSchema, create(ConnectRequestSchema, { frame: { frame } } as Frame));
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat(Array(count).fill(Buffer.concat([head, message])));
}
