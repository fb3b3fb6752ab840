import { randomInt, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { create, toBinary, toJsonString } from '@bufbuild/protobuf';
import { SendRequestSchema } from '@chatmesh/gen/chat/v1/chat';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Frame, WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

const SEED = process.env.FUZZ_SEED === undefined ? randomInt(2 ** 31) : Number(process.env.FUZZ_SEED);
const MAX_GROWTH_KIB = 64 * 1024;
/** One less than the bad frames in a row that close a socket. */
const BATCH = 9;
/** How long a raw socket may be left without an answer: half of a request deserves none. */
const SILENCE_MS = 150;
/** How long an answer that is due may take. */
const ANSWER_MS = 10_000;

const CODES = new Set([
  'invalid_argument',
  'not_found',
  'permission_denied',
  'resource_exhausted',
  'unavailable',
  'failed_precondition',
  'already_exists',
  // Two that the contract's list lacks: the answer to `auth` with a bad token, and to presence and typing, not served yet.
  'unauthenticated',
  'unimplemented',
]);
/** What a socket may be closed with for bad input: policy, too big, bad UTF-8, a token that does not verify. */
const CLOSE_CODES = new Set([1007, 1008, 1009, 4401, 4403]);

/** Whatever arrives from outside, the mesh answers by its contract, goes on serving, and keeps nothing of it. */
describe('malformed input', () => {
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;
  let eve: TestUser;
  let pid: number;
  let socket: WireClient | undefined;
  const rssKib: number[] = [];

  beforeAll(async () => {
    console.log(`FUZZ_SEED=${SEED}`);
    mesh = await TestMesh.start({ env: { MAX_CONNECTIONS_PER_USER: '0' } });
    [ada, bob, eve] = (await mesh.users(3)) as [TestUser, TestUser, TestUser];
    pid = mesh.process('edge').pid;
  });
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  /** Sends frames on eve's socket, then a good message: its answer proves that the frames before it were handled. */
  async function frames(batch: (string | Uint8Array)[]): Promise<void> {
    if (socket === undefined || socket.closeCode !== undefined) {
      const opened = await WireClient.connect(mesh.url, eve);
      opened.socket.on('message', (data) => {
        const { content, sealed, server_message_id: id } = JSON.parse(String(data));
        if (content !== undefined || sealed !== undefined) opened.confirm('delivered', id);
      });
      socket = opened;
      await opened.frame((f) => f.caught_up);
    }
    const client = socket;
    client.frames.length = 0;
    for (const frame of batch) client.socket.send(frame);
    const probe = client.message(randomUUID(), 'probe');
    const answered = (f: Frame) => f.client_message_id === probe && (f.status === 'sent' || f.error);
    await until(() => client.closeCode !== undefined || client.frames.some(answered), { what: 'the answer' });
    for (const frame of client.frames) {
      if (frame.error === undefined) expect(frame.server_message_id ?? frame.event ?? frame.caught_up).toBeDefined();
      else if (!CODES.has(frame.error.code)) throw new Error(`a code out of contract: ${JSON.stringify(frame)}`);
    }
    if (client.closeCode !== undefined && !CLOSE_CODES.has(client.closeCode))
      throw new Error(`closed with ${client.closeCode} ${client.closeReason}`);
  }

  async function post(body: Uint8Array, type: string, authorization: string): Promise<void> {
    const response = await fetch(`${mesh.httpUrl}/chat.v1.ChatService/Send`, {
      method: 'POST',
      headers: { 'content-type': type, authorization },
      body: Buffer.from(body),
    });
    const text = await response.text();
    // 500 is the answer to a fault of the server's own, which no input may cause. The one that the Connect library gives
    // for bytes that are no protobuf is known.
    const undecodable = type === 'application/proto' && text.includes('parse binary: ');
    if (response.status >= 500 && response.status !== 503 && !undecodable)
      throw new Error(`${response.status} ${text}`);
    if (response.status !== 200 && response.status !== 415) expect(typeof JSON.parse(text).code).toBe('string');
  }

  /** Writes bytes to the port and resolves with what came back until the end, an upgrade or silence. */
  function raw(bytes: Uint8Array, silenceMs: number): Promise<string> {
    return new Promise((resolve) => {
      let answer = '';
      const stream = connect(Number(new URL(mesh.httpUrl).port), '127.0.0.1', () => stream.write(bytes));
      stream.setTimeout(silenceMs, () => stream.destroy());
      stream.setEncoding('latin1').on('data', (text: string) => {
        answer += text;
        if (answer.startsWith('HTTP/1.1 101')) stream.destroy();
      });
      stream.on('error', () => {});
      stream.on('close', () => resolve(answer));
    });
  }

  function upgrade(header: string): Uint8Array {
    return Buffer.from(
      `GET /connect HTTP/1.1\r\nHost: mesh\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n${header}\r\n\r\n`,
    );
  }

  async function token(value: string, place: number): Promise<void> {
    const text = value.replaceAll(/[^\x21-\x7e]/g, '.');
    if (place === 0) return post(new Uint8Array(), 'application/proto', `Bearer ${text}`);
    const header = place === 1 ? 'Authorization: Bearer ' : 'Sec-WebSocket-Protocol: chatmesh.v1, bearer.';
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(await raw(upgrade(header + text), ANSWER_MS))?.[1]);
    if (status !== 101) return expect([400, 401, 431]).toContain(status);
    // Base64 leaves bits of the last character unused, so another text can be the same signature; nothing else may pass.
    const [given, issued] = [text, eve.token].map((t) => t.split('.')) as [string[], string[]];
    expect(given.slice(0, 2)).toEqual(issued.slice(0, 2));
    expect(Buffer.from(given[2] ?? '', 'base64url')).toEqual(Buffer.from(issued[2] ?? '', 'base64url'));
  }

  async function healthy(): Promise<void> {
    const edge = mesh.process('edge');
    expect(edge.pid).toBe(pid);
    process.kill(pid, 0);
    expect(edge.output).not.toMatch(/uncaught|unhandled|nobody caught|"level":(50|60)|"level":"(error|fatal)"/i);
    const [from, to] = await Promise.all([WireClient.connect(mesh.url, ada), WireClient.connect(mesh.url, bob)]);
    const { server_message_id: id } = await from.answer(from.message(bob, 'still here'));
    const message = await to.frame((f) => f.server_message_id === id && f.content === 'still here');
    to.confirm('delivered', message.server_message_id);
    const receipt = await from.frame((f) => f.status === 'delivered' && f.server_message_id === id);
    from.send({ ack: [receipt.event_id] });
    await Promise.all([from.close(), to.close()]);
  }

  // Inputs that need the users are made when a property runs, from a function that takes them.
  const names = ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'then', 'toJSON', 'length'];
  const nasty = fc.oneof(
    fc.jsonValue({ maxDepth: 4 }),
    fc.constantFrom<unknown>(
      null,
      true,
      [],
      {},
      '',
      1e308,
      -1e308,
      2 ** 53,
      -0,
      '\ud800',
      '\0',
      '\u202e',
      'a'.repeat(1001),
    ),
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.uuid(),
    fc.array(fc.uuid(), { maxLength: 300 }),
  );
  const field = fc.constantFrom(
    ...['sender_id', 'receiver_id', 'group_id', 'content', 'sealed', 'timestamp', 'client_message_id', 'status'],
    ...['server_message_id', 'server_message_ids', 'ack', 'auth', 'presence', 'typing', 'body', 'headers', 'token'],
    ...names,
  );
  const templates = (): object[] => [
    { sender_id: eve.userId, receiver_id: eve.userId, content: 'x', client_message_id: randomUUID() },
    {
      sender_id: eve.userId,
      receiver_id: eve.userId,
      sealed: { body: 'AAAA', headers: { [eve.deviceId]: { key_id: 'k', data: 'AAAA' } } },
      client_message_id: randomUUID(),
    },
    { status: 'read', server_message_ids: [randomUUID()] },
    { ack: [randomUUID()] },
    { auth: { token: eve.token } },
    { presence: { subscribe: [eve.userId] } },
    { typing: { receiver_id: bob.userId, active: true } },
  ];
  /** A good frame with some fields replaced, nested or removed; `JSON.parse` is what makes `__proto__` a field. */
  const mutated = fc
    .tuple(fc.nat(6), fc.array(fc.tuple(field, fc.option(nasty), fc.boolean()), { minLength: 1, maxLength: 3 }))
    .map(([template, changes]) => {
      let text = JSON.stringify(templates()[template]);
      for (const [name, value, nested] of changes) {
        const json = JSON.stringify(value) ?? 'null';
        if (nested) text = text.replace('{', `{${JSON.stringify(name)}:{${JSON.stringify(name)}:${json}},`);
        else text = text.replace(/\}$/, `,${JSON.stringify(name)}:${json}}`);
      }
      return text;
    });
  /** A good frame as text with one piece cut out or put in, so that mostly it is no JSON any more. */
  const torn = fc
    .tuple(fc.nat(6), fc.nat(200), fc.nat(10), fc.string({ unit: 'binary', maxLength: 10 }))
    .map(([template, at, cut, put]) => {
      const text = JSON.stringify(templates()[template]);
      return text.slice(0, at % text.length) + put + text.slice((at % text.length) + cut);
    });
  const deep = fc
    .tuple(fc.constantFrom('[', '{"a":', '{"sealed":', '{"ack":['), fc.integer({ min: 1, max: 12_000 }))
    .map(([open, depth]) => open.repeat(Math.min(depth, Math.floor(70_000 / open.length))));
  const closedDeep = fc
    .tuple(field, fc.integer({ min: 1, max: 12_000 }))
    .map(([name, depth]) => `{${JSON.stringify(name)}:${'['.repeat(depth)}${']'.repeat(depth)}}`);
  const numbers = fc
    .tuple(field, fc.constantFrom('1e999', '-1e999', '1'.repeat(5000), '0.1e-999', '-0', '18446744073709551616'))
    .map(([name, number]) => `{${JSON.stringify(name)}:${number}}`);
  const json = fc.oneof(
    { weight: 5, arbitrary: mutated },
    { weight: 3, arbitrary: torn },
    { weight: 3, arbitrary: fc.json({ maxDepth: 6, stringUnit: 'binary' }) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
    { weight: 1, arbitrary: numbers },
    { weight: 1, arbitrary: fc.oneof(deep, closedDeep) },
  );
  const bytes = fc.uint8Array({ maxLength: 2000 });
  const request = () =>
    create(SendRequestSchema, {
      message: {
        senderId: eve.userId,
        target: { case: 'receiverId', value: randomUUID() },
        payload: { case: 'content', value: 'x' },
        clientMessageId: randomUUID(),
      },
    });
  const patch = (good: Uint8Array, at: number, put: Uint8Array) =>
    Buffer.concat([good.subarray(0, at % good.length), put, good.subarray((at % good.length) + put.length)]);
  const body = fc.tuple(fc.constantFrom('random', 'patched'), fc.nat(400), bytes, fc.boolean());
  const tokens = fc.oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 300 }),
    fc
      .tuple(fc.nat(400), fc.uint8Array({ minLength: 1, maxLength: 3 }))
      .map(([at, put]) =>
        patch(Buffer.from(eve.token), at, Buffer.from(put.map((b) => 0x21 + (b % 94)))).toString('latin1'),
      ),
    fc
      .tuple(fc.constantFrom('none', 'HS256', 'RS256', '__proto__'), fc.json(), fc.base64String())
      .map(([alg, claims, signature]) => `${encode(JSON.stringify({ alg }))}.${encode(claims)}.${signature}`),
  );
  const garbage = fc.oneof(
    bytes,
    fc.tuple(fc.nat(200), bytes).map(([at, put]) => patch(upgrade(`Authorization: Bearer ${eve.token}`), at, put)),
    fc.tuple(fc.nat(2000), bytes).map(([cut, tail]) => {
      const head = upgrade(`Authorization: Bearer ${eve.token}`);
      return Buffer.concat([cut > 1000 ? head : head.subarray(0, cut % head.length), tail]);
    }),
  );
  const many = <T>(one: fc.Arbitrary<T>, count: number) => fc.array(one, { minLength: count, maxLength: count });

  describe.each([0, 1])('half %i', (half) => {
    const run = async <T>(arbitrary: fc.Arbitrary<T>, numRuns: number, check: (value: T) => Promise<unknown>) => {
      const property = fc.asyncProperty(arbitrary, async (value) => void (await check(value)));
      await fc.assert(property, { seed: SEED + half, numRuns, endOnFailure: true });
      await healthy();
    };

    test('JSON frames', () => run(many(json, BATCH), 250, frames));
    test('binary frames', () => run(many(bytes, BATCH), 50, frames));
    test('bodies of Send', () =>
      run(many(body, 10), 130, (bodies) =>
        Promise.all(
          bodies.map(([kind, at, put, proto]) => {
            const good = proto
              ? toBinary(SendRequestSchema, request())
              : Buffer.from(toJsonString(SendRequestSchema, request()));
            const sent = kind === 'random' ? put : patch(good, at, put.subarray(0, 4));
            return post(sent, proto ? 'application/proto' : 'application/json', `Bearer ${eve.token}`);
          }),
        ),
      ));
    test('tokens', () =>
      run(many(fc.tuple(tokens, fc.nat(2)), 10), 50, (list) => Promise.all(list.map(([t, place]) => token(t, place)))));
    test('raw bytes instead of an upgrade', () =>
      run(many(garbage, 10), 50, (list) => Promise.all(list.map((b) => raw(b, SILENCE_MS)))));
    test('the memory of the process', () => {
      const kib = Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
      rssKib.push(kib);
      console.log(`VmRSS ${kib} KiB`);
      expect(kib - (rssKib[0] as number)).toBeLessThanOrEqual(MAX_GROWTH_KIB);
    });
  });
});

function encode(text: string): string {
  return Buffer.from(text).toString('base64url');
}
