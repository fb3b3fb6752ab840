import { create, toBinary, toJsonString } from '@bufbuild/protobuf';
import { AcknowledgeRequestSchema, GetStatusRequestSchema, SendRequestSchema } from '@chatmesh/gen/chat/v1/chat';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import fc from 'fast-check';
import { base64url, SignJWT } from 'jose';
import type { TestUser } from '../mesh.js';

/** The shared secret of the mesh that is thrown at: with it claims can be malformed under a good signature. */
export const SECRET = 'a secret that is long enough for HS256';

const MAX_BYTES = 2000;
const bytes = fc.uint8Array({ maxLength: MAX_BYTES });
/** Names that mean something to JavaScript. */
const names = ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'then', 'toJSON', 'length'];
const odd = [null, true, [], {}, '', 0, -1, 1e308, -1e308, 2 ** 53, -0, '\ud800', '\0', '\u202e', 'a'.repeat(1001)];
const nasty = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom<unknown>(...odd),
  fc.string({ unit: 'binary', maxLength: 100 }),
  fc.uuid(),
  fc.array(fc.uuid(), { maxLength: 300 }),
);
const field = fc.constantFrom(
  ...['sender_id', 'receiver_id', 'group_id', 'content', 'sealed', 'timestamp', 'client_message_id', 'status'],
  ...['server_message_id', 'server_message_ids', 'ack', 'auth', 'presence', 'typing', 'body', 'headers', 'token'],
  ...names,
);

/** Frames that would be good, of every kind. */
function goodFrame(user: TestUser): fc.Arbitrary<string> {
  const { userId, deviceId } = user;
  const to = { sender_id: userId, receiver_id: userId };
  const headers = { [deviceId]: { key_id: 'k', data: 'AAAA' } };
  return fc
    .tuple(fc.nat(6), fc.uuid())
    .map(([kind, id]) =>
      JSON.stringify(
        [
          { ...to, content: 'x', client_message_id: id },
          { ...to, sealed: { body: 'AAAA', headers }, client_message_id: id },
          { status: 'read', server_message_ids: [id] },
          { ack: [id] },
          { auth: { token: user.token } },
          { presence: { subscribe: [id] } },
          { typing: { receiver_id: id, active: true } },
        ][kind],
      ),
    );
}

/** Text frames: good ones with fields replaced or nested, torn ones, deep ones, and JSON of any kind. */
export function jsonFrames(user: TestUser): fc.Arbitrary<string> {
  const good = goodFrame(user);
  // The later of two fields of one name counts; only text can name `__proto__`.
  const mutated = fc
    .tuple(good, fc.array(fc.tuple(field, fc.option(nasty), fc.boolean()), { minLength: 1, maxLength: 3 }))
    .map(([text, changes]) =>
      changes.reduce((frame, [name, value, nested]) => {
        const [key, json] = [JSON.stringify(name), JSON.stringify(value) ?? 'null'];
        return nested ? frame.replace('{', `{${key}:{${key}:${json}},`) : frame.replace(/\}$/, `,${key}:${json}}`);
      }, text),
    );
  const torn = fc
    .tuple(good, fc.nat(200), fc.nat(10), fc.string({ unit: 'binary', maxLength: 10 }))
    .map(([text, at, cut, put]) => text.slice(0, at % text.length) + put + text.slice((at % text.length) + cut));
  const open = fc
    .tuple(fc.constantFrom('[', '{"a":', '{"sealed":', '{"ack":['), fc.integer({ min: 1, max: 12_000 }))
    .map(([text, depth]) => text.repeat(Math.min(depth, Math.floor(70_000 / text.length))));
  const closed = fc
    .tuple(field, fc.integer({ min: 1, max: 36_000 }))
    .map(([name, depth]) => `{${JSON.stringify(name)}:${'['.repeat(depth)}${']'.repeat(depth)}}`);
  const numbers = fc
    .tuple(field, fc.constantFrom('1e999', '-1e999', '1'.repeat(5000), '0.1e-999', '-0', '18446744073709551616'))
    .map(([name, number]) => `{${JSON.stringify(name)}:${number}}`);
  return fc.oneof(
    { weight: 6, arbitrary: mutated },
    { weight: 3, arbitrary: torn },
    { weight: 2, arbitrary: fc.json({ maxDepth: 4, stringUnit: 'binary' }) },
    { weight: 1, arbitrary: fc.string({ unit: 'binary' }) },
    { weight: 1, arbitrary: numbers },
    { weight: 1, arbitrary: fc.oneof(open, closed) },
  );
}

/** Binary frames, and empty ones of both kinds. */
export const binaryFrames: fc.Arbitrary<string | Uint8Array> = fc.oneof(
  bytes,
  fc.constantFrom<string | Uint8Array>('', new Uint8Array(0)),
);

/** A request of one of the methods, encoded. */
export interface Call {
  readonly method: 'Send' | 'Acknowledge' | 'GetStatus';
  readonly proto: boolean;
  readonly body: Uint8Array;
}

/** Requests that are good but for a few bytes, and bodies of any bytes. */
export function calls(user: TestUser): fc.Arbitrary<Call> {
  const { userId } = user;
  const encoded = fc.tuple(fc.nat(2), fc.uuid(), fc.boolean()).map(([kind, id, proto]) => {
    const send = create(SendRequestSchema, {
      message: {
        senderId: userId,
        target: { case: 'receiverId', value: userId },
        payload: { case: 'content', value: 'x' },
        clientMessageId: id,
      },
    });
    const receipt = { status: MessageStatus.READ, serverMessageIds: [id] };
    const acknowledge = create(AcknowledgeRequestSchema, { receipts: [receipt], eventIds: [id] });
    const getStatus = create(GetStatusRequestSchema, { serverMessageIds: [id] });
    const [method, schema, message] = [
      ['Send', SendRequestSchema, send] as const,
      ['Acknowledge', AcknowledgeRequestSchema, acknowledge] as const,
      ['GetStatus', GetStatusRequestSchema, getStatus] as const,
    ][kind] as readonly ['Send', typeof SendRequestSchema, typeof send];
    return {
      method,
      proto,
      body: proto ? toBinary(schema, message) : Buffer.from(toJsonString(schema, message)),
    };
  });
  return fc
    .tuple(encoded, fc.boolean(), fc.nat(400), fc.uint8Array({ maxLength: 4 }), bytes)
    .map(([call, patched, at, put, random]) => ({ ...call, body: patched ? patch(call.body, at, put) : random }));
}

/** A call as the body of a gRPC, gRPC-Web or Connect stream: in an envelope whose flags and length may be wrong, too. */
export function enveloped({ body }: Call, flags: number, lengthOff: number): Uint8Array {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(Math.max(0, body.length + lengthOff), 1);
  return Buffer.concat([head, body]);
}

/** Mostly right. */
export const envelopeFlags = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(255) });
export const lengthErrors = fc.oneof(
  { weight: 3, arbitrary: fc.constant(0) },
  { weight: 1, arbitrary: fc.constantFrom(-1, 1, 1000, 2 ** 31, -(2 ** 31)) },
);

/** A token, and whether the mesh has to take it. */
export interface Token {
  readonly text: string;
  readonly good: boolean;
}

/** Tokens that are no JWT, are patched, unsigned, huge, or well signed with odd claims. */
export function tokens(user: TestUser): fc.Arbitrary<Promise<Token>> {
  const bad = fc.oneof(
    fc.string({ unit: 'binary', minLength: 1, maxLength: 300 }),
    fc.tuple(fc.nat(400), fc.uint8Array({ minLength: 1, maxLength: 3 })).map(([at, put]) =>
      patch(
        Buffer.from(user.token),
        at,
        put.map((b) => 0x21 + (b % 94)),
      ).toString('latin1'),
    ),
    fc
      .tuple(fc.constantFrom('none', 'HS256', 'RS256', 'EdDSA', '__proto__'), fc.json(), fc.base64String())
      .map(([alg, claims, signature]) => `${encode(JSON.stringify({ alg }))}.${encode(claims)}.${signature}`),
    fc.constantFrom(8192, 8193, 12_000).map((length) => `${user.token}${'A'.repeat(length - user.token.length)}`),
  );
  const uuid = fc.uuid();
  const claims = fc.record(
    {
      sub: fc.oneof({ weight: 2, arbitrary: uuid }, { weight: 1, arbitrary: nasty }),
      did: fc.oneof({ weight: 2, arbitrary: uuid }, { weight: 1, arbitrary: nasty }),
      exp: fc.oneof(fc.constantFrom<unknown>(4e9, 1e308, 0, -1, 1, '4000000000'), nasty),
    },
    { requiredKeys: [] },
  );
  return fc.oneof(
    { weight: 3, arbitrary: bad.map(async (text) => ({ text: printable(text), good: sameToken(text, user.token) })) },
    {
      weight: 1,
      arbitrary: claims.map(async (given) => {
        const jwt = new SignJWT(given as Record<string, unknown>).setProtectedHeader({ alg: 'HS256' });
        const { sub, did, exp } = given;
        const good = isUuid(sub) && (did === undefined || isUuid(did)) && typeof exp === 'number' && exp > 1.9e9;
        return { text: await jwt.sign(new TextEncoder().encode(SECRET)), good };
      }),
    },
  );
}

/** The head of a request for `/connect`, with one more header line. */
export function upgrade(header: string): Buffer {
  return Buffer.from(
    `GET /connect HTTP/1.1\r\nHost: mesh\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n${header}\r\n\r\n`,
  );
}

/** Bytes instead of HTTP/1.1: of any kind, or an upgrade that is patched, cut off, or followed by more. */
export function http1Garbage(user: TestUser): fc.Arbitrary<Uint8Array> {
  const head = upgrade(`Authorization: Bearer ${user.token}`);
  return fc.oneof(
    bytes,
    fc.tuple(fc.nat(head.length), fc.uint8Array({ maxLength: 20 })).map(([at, put]) => patch(head, at, put)),
    fc.tuple(fc.nat(head.length), bytes).map(([cut, tail]) => Buffer.concat([head.subarray(0, cut), tail])),
    bytes.map((tail) => Buffer.concat([head, tail])),
  );
}

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

/** Bytes instead of HTTP/2: of any kind, after the preface, or frames of every type with anything in them. */
export const http2Garbage: fc.Arbitrary<Uint8Array> = fc.oneof(
  bytes,
  bytes.map((tail) => Buffer.concat([PREFACE, tail])),
  fc
    .array(fc.tuple(fc.nat(11), fc.nat(255), fc.nat(7), fc.uint8Array({ maxLength: 100 })), { maxLength: 8 })
    .map((frames) =>
      Buffer.concat([PREFACE, h2Frame(4, 0, 0, new Uint8Array(0)), ...frames.map((f) => h2Frame(...f))]),
    ),
);

function h2Frame(type: number, flags: number, stream: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** Writes `put` over a part of `good`. */
function patch(good: Uint8Array, at: number, put: Uint8Array): Buffer {
  const from = at % good.length;
  return Buffer.concat([good.subarray(0, from), put, good.subarray(from + put.length)]);
}

/** What can stand in a header. */
function printable(text: string): string {
  return text.replaceAll(/[^\x21-\x7e]/g, '.');
}

/** Base64 leaves bits of the last character unused, so that another text can be the same signature. */
function sameToken(text: string, token: string): boolean {
  const [given, issued] = [printable(text), token].map((t) => t.split('.')) as [string[], string[]];
  if (given.length !== 3 || given[0] !== issued[0] || given[1] !== issued[1]) return false;
  try {
    return Buffer.from(base64url.decode(given[2] ?? '')).equals(Buffer.from(issued[2] ?? '', 'base64url'));
  } catch {
    // Node's own decoder passes over characters that do not belong there.
    return false;
  }
}

function isUuid(value: unknown): boolean {
  return typeof value === 'string' && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value);
}

function encode(text: string): string {
  return Buffer.from(text).toString('base64url');
}
