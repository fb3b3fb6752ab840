import { randomUUID } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { createClient } from '@chatmesh/mesh';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { SignJWT } from 'jose';
import { freePorts } from '#engines';
import { WireClient } from '../client.js';
import { MeshProcess, TestMesh, type TestUser, until } from '../mesh.js';

const MAX_SCRIPT_BYTES = 60 * 1024;
const SECRET = 'a secret that is long enough for HS256';

/** Sections 1 and 2 of the wire contract: the upgrade, the frames, the refusals and the close codes. */
describe('GET /connect', () => {
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;

  beforeAll(async () => {
    mesh = await TestMesh.start({ env: { AUTH_HS256_SECRET: SECRET, MAX_CONNECTIONS_PER_USER: '3' } });
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  });
  afterAll(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  function token(claims: { sub?: string; did?: string; exp?: string | number; secret?: string }): Promise<string> {
    const jwt = new SignJWT(claims.did === undefined ? {} : { did: claims.did }).setProtectedHeader({ alg: 'HS256' });
    if (claims.sub !== undefined) jwt.setSubject(claims.sub);
    if (claims.exp !== 'none') jwt.setExpirationTime(claims.exp ?? '1h');
    return jwt.sign(new TextEncoder().encode(claims.secret ?? SECRET));
  }

  test('beside it is the page: its script is small, and nothing else may run', async () => {
    const page = await fetch(`${mesh.httpUrl}/`);
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'; script-src 'self'");
    const script = await fetch(`${mesh.httpUrl}/page.js`);
    expect(gzipSync(await script.text()).length).toBeLessThan(MAX_SCRIPT_BYTES);
  });

  async function refusal(options: {
    token: string;
    path?: string;
  }): Promise<{ status: number; error: { code: string; message: string } }> {
    const url = options.path === undefined ? mesh.url : mesh.url.replace('/connect', options.path);
    const error = await WireClient.connect(url, ada, { token: options.token }).then(
      () => {
        throw new Error('the upgrade was not refused');
      },
      (e) => e,
    );
    return { status: error.status, error: JSON.parse(error.body).error };
  }

  describe('before the upgrade', () => {
    test('a token in the Authorization header or in the subprotocol list opens the connection', async () => {
      const byHeader = await WireClient.connect(mesh.url, ada);
      await byHeader.frame((f) => f.caught_up);
      const bySubprotocol = await WireClient.connect(mesh.url, bob, { subprotocol: true });
      expect(bySubprotocol.socket.protocol).toBe('chatmesh.v1');
      await bySubprotocol.frame((f) => f.caught_up);
    });

    test.each([
      ['malformed', async () => 'not-a-token'],
      ['expired', () => token({ sub: randomUUID(), exp: Math.floor(Date.now() / 1000) - 12 })],
      ['without exp', () => token({ sub: randomUUID(), exp: 'none' })],
      ['wrongly signed', () => token({ sub: randomUUID(), secret: 'another secret that is long enough' })],
      ['without sub', () => token({})],
      ['with a sub that is no user_id', () => token({ sub: 'ada' })],
    ])('401 for a token that is %s', async (_what, make) => {
      const { status, error } = await refusal({ token: await make() });
      expect([status, error.code]).toEqual([401, 'unauthenticated']);
    });

    test('401 for an unsigned token and for one whose signature was cut off', async () => {
      const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
      const none = `${encode({ alg: 'none' })}.${encode({ sub: ada.userId, exp: Date.now() })}.`;
      expect((await refusal({ token: none })).status).toBe(401);
      expect((await refusal({ token: ada.token.slice(0, -8) })).status).toBe(401);
    });

    test('401 without a token; 404 for another path; 426 without an upgrade', async () => {
      const response = await fetch(`${mesh.httpUrl}/connect`);
      expect(response.status).toBe(426);
      expect((await response.json()).error.code).toBe('failed_precondition');
      expect((await refusal({ token: ada.token, path: '/elsewhere' })).status).toBe(404);
      expect((await fetch(`${mesh.httpUrl}/elsewhere`)).status).toBe(404);
      expect((await refusal({ token: '' })).status).toBe(401);
    });

    test('an unknown sub from an external issuer creates the user; an eleventh device is 403', async () => {
      const userId = randomUUID();
      for (let i = 0; i < 10; i++) {
        const client = await WireClient.connect(mesh.url, {
          ...ada,
          userId,
          token: await token({ sub: userId, did: randomUUID() }),
        });
        await client.close();
      }
      const { status, error } = await refusal({ token: await token({ sub: userId, did: randomUUID() }) });
      expect([status, error.code]).toEqual([403, 'permission_denied']);
    });

    test('without did the device is the nil UUID', async () => {
      const userId = randomUUID();
      const first = await WireClient.connect(mesh.url, { ...ada, userId, token: await token({ sub: userId }) });
      await first.frame((f) => f.caught_up);
      await WireClient.connect(mesh.url, {
        ...ada,
        userId,
        token: await token({ sub: userId, did: '00000000-0000-0000-0000-000000000000' }),
      });
      expect(await first.closed()).toBe(4409);
    });

    test('429 for too many connections of one user', async () => {
      const userId = randomUUID();
      for (let i = 0; i < 3; i++)
        await WireClient.connect(mesh.url, { ...ada, userId, token: await token({ sub: userId, did: randomUUID() }) });
      const { status, error } = await refusal({ token: await token({ sub: userId, did: randomUUID() }) });
      expect([status, error.code]).toEqual([429, 'resource_exhausted']);
    });

    test('429 counts connections to all edges, and is over when one of them ends', async () => {
      const [port, h2Port, adminPort] = (await freePorts(3)) as [number, number, number];
      const other = new MeshProcess(['edge'], adminPort, {
        PATH: process.env.PATH,
        EDGE_HOST: '127.0.0.1',
        EDGE_PORT: String(port),
        EDGE_H2_PORT: String(h2Port),
        CHAT_ADDRESSES: mesh.chatAddress,
        USER_ADDRESS: mesh.userAddress,
        PRESENCE_ADDRESS: mesh.presenceAddress,
        AUTH_HS256_SECRET: SECRET,
        MAX_CONNECTIONS_PER_USER: '3',
      });
      const presence = createClient(SessionService, { address: mesh.presenceAddress });
      await other.start();
      try {
        const userId = randomUUID();
        const connect = async (url: string) =>
          WireClient.connect(url, { ...ada, userId, token: await token({ sub: userId, did: randomUUID() }) });
        const elsewhere = `ws://127.0.0.1:${port}/connect`;
        const [first] = [await connect(mesh.url), await connect(elsewhere), await connect(elsewhere)];
        await until(async () => (await presence.listSessions({ userIds: [userId] })).sessions.length === 3);
        for (const url of [mesh.url, elsewhere]) await expect(connect(url)).rejects.toMatchObject({ status: 429 });
        await first.close();
        await until(
          () =>
            connect(elsewhere).then(
              () => true,
              () => false,
            ),
          { what: 'room for one more' },
        );
      } finally {
        presence.close();
        await other.end('SIGTERM');
      }
    });
  });

  describe('frames', () => {
    async function pair(): Promise<{ a: WireClient; b: WireClient; ada: TestUser; bob: TestUser }> {
      const [one, two] = (await mesh.users(2)) as [TestUser, TestUser];
      return {
        ada: one,
        bob: two,
        a: await WireClient.connect(mesh.url, one),
        b: await WireClient.connect(mesh.url, two),
      };
    }

    test('caught_up comes once, also with an empty backlog', async () => {
      const { a, bob: to } = await pair();
      await a.frame((f) => f.caught_up);
      await a.answer(a.message(to, 'x'));
      expect(a.frames.filter((f) => f.caught_up)).toHaveLength(1);
    });

    test('content arrives as it was sent: never trimmed or normalised, 1 to 1,000 code points', async () => {
      const { a, b, bob: to } = await pair();
      const texts = [
        ' two  spaces ',
        'e\u0301 is not \u00e9',
        '\u0000 and \u2028',
        '\ud83d\ude00'.repeat(1000),
        'שלום',
        '"quotes" \\ and \n lines',
      ];
      for (const text of texts) await a.answer(a.message(to, text));
      await until(() => b.messages.length >= texts.length, { what: 'all messages' });
      expect(b.messages.map((m) => m.content)).toEqual(texts);
    });

    test.each([
      ['empty content', { content: '' }],
      ['1,001 code points', { content: 'x'.repeat(1001) }],
      ['a lone surrogate', { content: '\ud800' }],
      ['content that is no text', { content: 7 }],
      ['a sender_id that is no UUID', { sender_id: 'ada' }],
      ['an upper-case UUID', { client_message_id: 'AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA' }],
      ['a missing client_message_id', { client_message_id: undefined }],
      ['both receiver_id and group_id', { group_id: randomUUID() }],
      ['neither receiver_id nor group_id', { receiver_id: undefined }],
      ['a timestamp that is no time', { timestamp: 'yesterday' }],
      ['sealed that is no object', { content: undefined, sealed: 'x' }],
      ['a sealed body that is no base64', { content: undefined, sealed: { body: '***', headers: {} } }],
      [
        'a sealed body over 8 KiB',
        { content: undefined, sealed: { body: Buffer.alloc(8193).toString('base64'), headers: {} } },
      ],
    ])('%s is invalid_argument and the socket stays open', async (_what, fields) => {
      const { a, bob: to, ada: from } = await pair();
      const frame = {
        sender_id: from.userId,
        receiver_id: to.userId,
        content: 'x',
        client_message_id: randomUUID(),
        ...fields,
      };
      a.send(frame);
      const refused = await a.frame((f) => f.error, 'the refusal');
      expect(refused.error.code).toBe('invalid_argument');
      if (typeof frame.client_message_id === 'string') expect(refused.client_message_id).toBe(frame.client_message_id);
      await a.answer(a.message(to, 'still open'));
    });

    test('another sender_id is permission_denied; an unknown recipient is not_found', async () => {
      const { a, bob: to } = await pair();
      a.send({ sender_id: to.userId, receiver_id: to.userId, content: 'x', client_message_id: randomUUID() });
      await a.frame((f) => f.error?.code === 'permission_denied');
      const id = a.message(randomUUID(), 'x');
      expect((await a.answer(id)).error.code).toBe('not_found');
    });

    test('a receipt for a message that was not sent to this user is not_found; repeating one is no error', async () => {
      const { a, b, bob: to } = await pair();
      const { server_message_id } = await a.answer(a.message(to, 'x'));
      a.confirm('delivered', randomUUID());
      await a.frame((f) => f.error?.code === 'not_found');
      await b.frame((f) => f.server_message_id === server_message_id);
      b.confirm('delivered', server_message_id);
      b.confirm('delivered', server_message_id);
      b.confirm('read', server_message_id);
      await a.frame((f) => f.status === 'read');
      expect(b.frames.filter((f) => f.error)).toEqual([]);
    });

    test('sealed content reaches each device with its own header only', async () => {
      const { a, b, ada: from, bob: to } = await pair();
      const body = Buffer.from('ciphertext').toString('base64');
      const headers = {
        [to.deviceId]: { key_id: 'k1', data: Buffer.from('for bob').toString('base64') },
        [from.deviceId]: { key_id: 'k2', data: Buffer.from('for ada').toString('base64') },
      };
      const id = randomUUID();
      a.send({ sender_id: from.userId, receiver_id: to.userId, sealed: { body, headers }, client_message_id: id });
      await a.answer(id);
      const message = await b.frame((f) => f.sealed, 'the sealed message');
      expect(message.sealed).toEqual({ body, ...headers[to.deviceId] });
      // Sealing the same text again gives other bytes: for a repeat only the recipient is compared.
      a.send({
        sender_id: from.userId,
        receiver_id: to.userId,
        sealed: { body: Buffer.from('other').toString('base64'), headers },
        client_message_id: id,
      });
      await a.frame((f) => f.deduplicated, 'the deduplicated answer');
    });

    test('the answer, the message and the receipt have the fields of the contract, and no others', async () => {
      const { a, b, ada: from, bob: to } = await pair();
      const id = a.message(to, 'hello');
      const accepted = await a.answer(id);
      const time = expect.stringMatching(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$/);
      const uuid = expect.stringMatching(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
      expect(accepted).toEqual({ status: 'sent', timestamp: time, client_message_id: id, server_message_id: uuid });
      const { server_message_id, timestamp } = accepted;
      const message = await b.frame((f) => f.content);
      expect(message).toEqual({ sender_id: from.userId, content: 'hello', timestamp, server_message_id });
      // One id may be given alone.
      b.send({ status: 'read', server_message_id, timestamp: new Date().toISOString() });
      const receipt = { status: 'read', timestamp: time, server_message_id, client_message_id: id, event_id: uuid };
      expect(await a.frame((f) => f.status === 'read')).toEqual(receipt);
    });

    test.each([
      ['257 ids in a receipt', { status: 'read', server_message_ids: Array.from({ length: 257 }, () => randomUUID()) }],
      ['no ids in a receipt', { status: 'read', server_message_ids: [] }],
      ['one id and several', { status: 'read', server_message_id: randomUUID(), server_message_ids: [randomUUID()] }],
      ['a receipt of sent', { status: 'sent', server_message_id: randomUUID() }],
      ['257 acks', { ack: Array.from({ length: 257 }, () => randomUUID()) }],
      ['an ack that is no list', { ack: randomUUID() }],
      ['auth without a token', { auth: {} }],
      ['501 presence subscriptions', { presence: { subscribe: Array.from({ length: 501 }, () => randomUUID()) } }],
      ['typing to nobody', { typing: { active: true } }],
      ['typing that is neither on nor off', { typing: { receiver_id: randomUUID(), active: 'yes' } }],
    ])('%s is invalid_argument and the socket stays open', async (_what, frame) => {
      const { a, bob: to } = await pair();
      a.send(frame);
      expect((await a.frame((f) => f.error)).error.code).toBe('invalid_argument');
      await a.answer(a.message(to, 'still open'));
    });

    test('256 ids in a receipt and 256 acks are taken', async () => {
      const { a, bob: to } = await pair();
      const ids = Array.from({ length: 256 }, () => randomUUID());
      a.send({ ack: ids });
      a.confirm('delivered', ...ids);
      expect((await a.frame((f) => f.error)).error.code).toBe('not_found');
      await a.answer(a.message(to, 'still open'));
      expect(a.frames.filter((f) => f.error)).toHaveLength(1);
    });

    test('a frame of 64 KiB is taken, one byte more is 1009', async () => {
      const { a, ada: from, bob: to } = await pair();
      const frame = (bytes: number) => {
        const base = { sender_id: from.userId, receiver_id: to.userId, content: 'x', client_message_id: randomUUID() };
        const rest = bytes - JSON.stringify({ ...base, padding: '' }).length;
        return { ...base, padding: 'x'.repeat(rest) };
      };
      const fits = frame(64 * 1024);
      a.send(fits);
      expect((await a.answer(fits.client_message_id)).status).toBe('sent');
      a.send(frame(64 * 1024 + 1));
      expect(await a.closed()).toBe(1009);
    });

    test('groups, presence and typing are unimplemented; a token that does not verify is unauthenticated', async () => {
      const { a, ada: from, bob: to } = await pair();
      const id = randomUUID();
      a.send({ sender_id: from.userId, group_id: randomUUID(), content: 'x', client_message_id: id });
      expect((await a.answer(id)).error.code).toBe('unimplemented');
      a.send({ presence: { subscribe: [to.userId] } });
      a.send({ typing: { receiver_id: to.userId, active: true } });
      await until(() => a.frames.filter((f) => f.error?.code === 'unimplemented').length === 3, {
        what: 'three answers',
      });
      a.send({ auth: { token: 'nonsense' } });
      await a.frame((f) => f.error?.code === 'unauthenticated');
      await a.answer(a.message(to, 'still open'));
    });

    test('unknown fields are ignored', async () => {
      const { a, bob: to, ada: from } = await pair();
      const id = randomUUID();
      a.send({
        sender_id: from.userId,
        receiver_id: to.userId,
        content: 'x',
        client_message_id: id,
        colour: 'blue',
        nested: { deep: [1] },
      });
      expect((await a.answer(id)).status).toBe('sent');
    });

    test('ten bad frames in a row close the socket with 1008; a good one in between starts the count again', async () => {
      const { a, bob: to } = await pair();
      for (let i = 0; i < 9; i++) a.send('not json');
      await a.answer(a.message(to, 'good'));
      for (let i = 0; i < 9; i++) a.send('[]');
      await until(() => a.frames.filter((f) => f.error).length === 18, { what: '18 refusals' });
      expect(a.closeCode).toBeUndefined();
      a.send('{}');
      expect(await a.closed()).toBe(1008);
    });

    test('a binary message is a bad frame; a frame over 64 KiB closes with 1009', async () => {
      const { a } = await pair();
      a.socket.send(Buffer.from([1, 2, 3]));
      await a.frame((f) => f.error?.code === 'invalid_argument');
      a.send(JSON.stringify({ content: 'x'.repeat(70_000) }));
      expect(await a.closed()).toBe(1009);
      const { b } = await pair();
      b.send('x'.repeat(600_000));
      expect(await b.closed()).toBe(1009);
    });

    test('a newer connection of the same device replaces the older with 4409', async () => {
      const { a, ada: from, bob: to } = await pair();
      const newer = await WireClient.connect(mesh.url, from);
      expect(await a.closed()).toBe(4409);
      await newer.answer(newer.message(to, 'x'));
    });

    test('an expired token closes with 4401; a fresh one sent before keeps the connection', async () => {
      const soon = () => Math.floor(Date.now() / 1000) + 2;
      const [one, two] = [randomUUID(), randomUUID()];
      const dies = await WireClient.connect(mesh.url, {
        ...ada,
        userId: one,
        token: await token({ sub: one, exp: soon() }),
      });
      const lives = await WireClient.connect(mesh.url, {
        ...ada,
        userId: two,
        token: await token({ sub: two, exp: soon() }),
      });
      lives.send({ auth: { token: await token({ sub: two }) } });
      expect(await dies.closed()).toBe(4401);
      await lives.answer(lives.message(bob, 'still here'));
      lives.send({ auth: { token: await token({ sub: one }) } });
      await lives.frame((f) => f.error?.code === 'permission_denied');
    });
  });
});

describe('limits and the end of a mesh', () => {
  let mesh: TestMesh;

  beforeAll(async () => {
    mesh = await TestMesh.start({ env: { SEND_RATE: '1', SEND_BURST: '5' } });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  test('more than the burst is resource_exhausted with retry_after_ms, and succeeds after it', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const a = await WireClient.connect(mesh.url, ada);
    const ids = Array.from({ length: 8 }, (_, i) => a.message(bob, `n${i}`));
    for (const id of ids) await a.answer(id);
    const refused = a.frames.filter((f) => f.error);
    expect(refused.length).toBeGreaterThanOrEqual(2);
    for (const frame of refused)
      expect(frame.error).toMatchObject({ code: 'resource_exhausted', retry_after_ms: expect.any(Number) });
    const wait = Math.max(...refused.map((f) => f.error.retry_after_ms));
    await new Promise((resolve) => setTimeout(resolve, wait));
    expect((await a.answer(a.message(bob, 'later'))).status).toBe('sent');
  });

  test('SIGTERM: going_away, then 1001, exit code 0; what was accepted is there after the restart', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const a = await WireClient.connect(mesh.url, ada);
    const { server_message_id } = await a.answer(a.message(bob, 'keep this'));
    const ended = mesh.process('chat').end('SIGTERM');
    const goingAway = await a.frame((f) => f.going_away, 'going_away');
    expect(goingAway.going_away.reconnect_after_ms).toEqual(expect.any(Number));
    expect(await a.closed()).toBe(1001);
    expect(await ended).toBe(0);
    await mesh.process('chat').start();
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.server_message_id === server_message_id, 'the message');
  });
});
