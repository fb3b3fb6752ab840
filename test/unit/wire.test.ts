import { deepStrictEqual } from 'node:assert/strict';
import { types } from 'node:util';
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  isMessage,
  ScalarType,
  toBinary,
} from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';
import { file_chat_v1_admin } from '@chatmesh/gen/chat/v1/admin';
import { file_chat_v1_chat } from '@chatmesh/gen/chat/v1/chat';
import { file_chat_v1_frames } from '@chatmesh/gen/chat/v1/frames';
import { file_chat_v1_internal } from '@chatmesh/gen/chat/v1/internal';
import { file_chat_v1_log } from '@chatmesh/gen/chat/v1/log';
import { file_chat_v1_router, RouteRequestSchema } from '@chatmesh/gen/chat/v1/router';
import { file_presence_v1_presence } from '@chatmesh/gen/presence/v1/presence';
import { file_presence_v1_session } from '@chatmesh/gen/presence/v1/session';
import { file_user_v1_admin } from '@chatmesh/gen/user/v1/admin';
import { file_user_v1_auth } from '@chatmesh/gen/user/v1/auth';
import { file_user_v1_contact } from '@chatmesh/gen/user/v1/contact';
import { file_user_v1_directory } from '@chatmesh/gen/user/v1/directory';
import { file_user_v1_group } from '@chatmesh/gen/user/v1/group';
import { file_user_v1_key } from '@chatmesh/gen/user/v1/key';
import { file_user_v1_settings } from '@chatmesh/gen/user/v1/settings';
import { file_user_v1_user } from '@chatmesh/gen/user/v1/user';
import { codecs, type WireCodec } from '@chatmesh/gen/wire';
import { LogEventWire, MessageEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { PushWire, RouteRequestWire, SessionOpenedWire } from '@chatmesh/gen/wire/chat/v1/router';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { newSeed } from '../contract/engine.js';

const files = [
  file_chat_v1_admin,
  file_chat_v1_chat,
  file_chat_v1_frames,
  file_chat_v1_internal,
  file_chat_v1_log,
  file_chat_v1_router,
  file_presence_v1_presence,
  file_presence_v1_session,
  file_user_v1_admin,
  file_user_v1_auth,
  file_user_v1_contact,
  file_user_v1_directory,
  file_user_v1_group,
  file_user_v1_key,
  file_user_v1_settings,
  file_user_v1_user,
];
const schemas: DescMessage[] = [TimestampSchema, ...files.flatMap((file) => file.messages)];

const text = fc.oneof(
  fc.uuid(),
  fc.string({ unit: 'binary', maxLength: 30 }),
  // Around the lengths at which the length itself takes one more byte, in characters of one to four bytes.
  fc.tuple(fc.constantFrom('a', 'é', '\ufffd', '\ufeff', '😀', '\ud800'), fc.nat(140)).map(([c, n]) => c.repeat(n)),
);

/** Anything that a field may hold, as an initializer of protobuf-es. */
function anyValueOf(field: DescField): fc.Arbitrary<unknown> {
  if (field.message) return anyMessageOf(field.message);
  if (field.enum) {
    const known = field.enum.values.map(({ number }) => number);
    return fc.oneof(fc.constantFrom(...known), fc.integer());
  }
  switch (field.scalar) {
    case ScalarType.STRING:
      return text;
    case ScalarType.BYTES:
      return fc.uint8Array({ maxLength: 150 });
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.INT32:
      return fc.integer();
    case ScalarType.UINT32:
      return fc.integer({ min: 0, max: 0xffffffff });
    case ScalarType.INT64:
      return fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    case ScalarType.UINT64:
      return fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.nat().map(BigInt));
    default:
      throw new Error(`no arbitrary for ${field}`);
  }
}

function anyFieldOf(field: DescField): fc.Arbitrary<unknown> {
  if (field.fieldKind === 'list') return fc.array(anyValueOf(field), { maxLength: 4 });
  if (field.fieldKind === 'map')
    return fc.dictionary(fc.oneof(text, fc.constant('__proto__')), anyValueOf(field), { maxKeys: 4 });
  return anyValueOf(field);
}

/** Any message of a type. Each of its members may be missing. */
function anyMessageOf(schema: DescMessage): fc.Arbitrary<Record<string, unknown>> {
  const members = schema.members.map((member) => [
    member.localName,
    member.kind === 'oneof'
      ? fc.oneof(
          ...member.fields.map((field) => fc.record({ case: fc.constant(field.localName), value: anyFieldOf(field) })),
        )
      : anyFieldOf(member),
  ]);
  return fc.record(Object.fromEntries(members), { requiredKeys: [] }).map((init) => create(schema, init)) as never;
}

const cases = schemas.map((schema) => ({ schema, codec: codecOf(schema), messages: anyMessageOf(schema) }));
type Case = (typeof cases)[number];
const seed = newSeed('wire');

function codecOf({ typeName }: DescMessage): WireCodec {
  const codec = codecs.get(typeName);
  if (!codec) throw new Error(`no codec for ${typeName}`);
  return codec;
}

/** Holds for messages of each type, encoded by protobuf-es. */
function promise(runs: number, holds: (bytes: Uint8Array, other: Uint8Array, it: Case, number: number) => void): void {
  for (const it of cases) {
    const encoded = it.messages.map((message) => toBinary(it.schema, message as never));
    const property = fc.property(encoded, encoded, fc.nat(), (one, other, number) => holds(one, other, it, number));
    fc.assert(property, { numRuns: runs, seed });
  }
}

/** The message that the bytes hold; undefined when the codec refuses them, as it should do with an Error. */
function tryToDecode(codec: WireCodec, bytes: Uint8Array): ReturnType<WireCodec['decode']> | undefined {
  try {
    return codec.decode(bytes);
  } catch (error) {
    if (!types.isNativeError(error)) throw error;
    return undefined;
  }
}

describe('the generated codecs', () => {
  test('are there for every message of the contract', () => {
    expect([...codecs.keys()].sort()).toEqual(schemas.map(({ typeName }) => typeName).sort());
  });

  test('create what protobuf-es creates, with the same properties in the same order', () => {
    for (const { schema, codec } of cases) {
      deepStrictEqual(codec.create(), create(schema));
      expect(Object.keys(codec.create())).toEqual(Object.keys(create(schema)));
      expect(isMessage(codec.create(), schema)).toBe(true);
    }
  });

  test('write the same bytes as protobuf-es, and read the same message from them', () => {
    promise(25, (bytes, _, { schema, codec }) => {
      const message = fromBinary(schema, bytes);
      deepStrictEqual(new Uint8Array(codec.encode(message)), bytes);
      deepStrictEqual(codec.decode(bytes), message);
      deepStrictEqual(codec.decode(Buffer.from(bytes)), message);
    });
  });

  test('merge what occurs twice, as protobuf-es does', () => {
    promise(8, (one, other, { schema, codec }) => {
      const both = Buffer.concat([one, other]);
      deepStrictEqual(codec.decode(both), fromBinary(schema, new Uint8Array(both)));
    });
  });

  test('pass over fields that they do not know', () => {
    const unknown = new BinaryWriter();
    unknown.tag(20_000, WireType.Varint).uint64(2n ** 64n - 1n);
    unknown.tag(20_001, WireType.Bit64).fixed64(1n);
    unknown.tag(20_002, WireType.LengthDelimited).string('new');
    unknown.tag(20_003, WireType.StartGroup).tag(1, WireType.Varint).uint32(1);
    unknown.tag(1, WireType.StartGroup).tag(1, WireType.EndGroup).tag(20_003, WireType.EndGroup);
    unknown.tag(20_004, WireType.Bit32).fixed32(1);
    const extra = unknown.finish();
    promise(8, (bytes, _, { codec }) => {
      const message = codec.decode(bytes);
      deepStrictEqual(codec.decode(Buffer.concat([extra, bytes, extra])), message);
    });
  });

  test('never stumble over bytes that are cut off, changed or made up', () => {
    promise(12, (bytes, other, { codec }, number) => {
      const changed = Uint8Array.from(bytes);
      if (changed.length > 0) changed[number % changed.length] = number >>> 8;
      const cut = bytes.subarray(0, number % (bytes.length + 1));
      const foreign = Buffer.concat([cut, other.subarray(number % (other.length + 1))]);
      for (const malformed of [changed, cut, foreign]) {
        const message = tryToDecode(codec, malformed);
        if (message) deepStrictEqual(codec.decode(codec.encode(message)), message);
      }
    });
    const noise = fc.property(fc.constantFrom(...cases), fc.uint8Array({ maxLength: 60 }), ({ codec }, bytes) => {
      tryToDecode(codec, bytes);
    });
    fc.assert(noise, { numRuns: 5_000, seed });
  });
});

describe('a generated codec', () => {
  test('refuses what is no message', () => {
    const malformed: [string, number[]][] = [
      ['a text that is cut off', [0x12, 5, 0x61]],
      ['a length that is cut off', [0x12, 0x80]],
      ['a length beyond the end', [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]],
      ['a tag without its field', [0x12]],
      ['a tag that is cut off', [0x92]],
      ['a tag of more than 32 bits', [0x92, 0x80, 0x80, 0x80, 0x10, 0]],
      ['a tag of more bytes than it needs', [0x92, 0x80, 0x80, 0x80, 0x80, 0x00, 0]],
      ['a number longer than ten bytes', [0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]],
      ['the field number 0', [0x02, 0]],
      ['the wire type 6', [0x0e]],
      ['the wire type 7', [0xa7, 0x06]],
      ['the end of a group that never began', [0x0c]],
      ['a group that never ends', [0xa3, 0x06, 0x08, 1]],
      ['a group with the end of another', [0xa3, 0x06, 0xac, 0x06]],
      ['fixed fields that are cut off', [0xa5, 0x06, 1, 2, 3]],
      ['text that is not UTF-8', [0x12, 2, 0xc3, 0x28]],
      ['text with an encoded surrogate', [0x12, 3, 0xed, 0xa0, 0x80]],
      ['groups without end', Array(300).fill([0xa3, 0x06]).flat()],
    ];
    for (const [what, bytes] of malformed) {
      expect([what, tryToDecode(SessionOpenedWire, Uint8Array.from(bytes))]).toEqual([what, undefined]);
    }
  });

  test('refuses a field that is longer than the message around it', () => {
    // A message of two bytes, whose text claims three; the third one belongs to the message outside.
    expect(() => RouteRequestWire.decode(Uint8Array.of(0x0a, 2, 0x0a, 1, 0x10, 1))).toThrow('longer than its message');
    expect(() => PushWire.decode(Uint8Array.of(0x0a, 1, 0x80, 0x01))).toThrow();
  });

  test('reads nothing beyond its bytes where the memory goes on', () => {
    const memory = Buffer.from([0x2a, 5, 1, 2, 3, 4, 5]);
    for (let size = 1; size < memory.length; size++) {
      expect(() => PushWire.decode(memory.subarray(0, size))).toThrow('cut off');
    }
    expect(PushWire.decode(memory).events[0]).toHaveLength(5);
  });

  test('passes over a field of another wire type, as over one that it does not know', () => {
    expect(SessionOpenedWire.decode(Uint8Array.of(0x0a, 1, 0x61, 0x30, 1))).toMatchObject({
      session: 0,
      ageMs: 1,
    });
  });

  test('reads a list of numbers that is not packed', () => {
    const bytes = Uint8Array.of(0x28, 1, 0x2a, 2, 2, 3, 0x28, 4);
    expect(RouteRequestWire.decode(bytes).closedSessions).toEqual([1, 2, 3, 4]);
  });

  test('refuses to write a number that its type cannot hold', () => {
    for (const session of [-1, 0.5, 2 ** 32, Number.NaN]) {
      expect(() => SessionOpenedWire.encode({ ...SessionOpenedWire.create(), session })).toThrow(RangeError);
    }
    for (const acceptedAtMs of [-1n, 2n ** 64n]) {
      expect(() => MessageEventWire.encode({ ...MessageEventWire.create(), acceptedAtMs })).toThrow(RangeError);
    }
    // What the failed attempts had written is gone.
    expect(SessionOpenedWire.encode(SessionOpenedWire.create())).toHaveLength(0);
  });

  test('writes messages of any size, each into memory of its own', () => {
    const sizes = [0, 127, 128, 16_383, 16_384, 100_000, 3_000_000, 10];
    const encoded = sizes.map((size) => {
      const value = {
        ...MessageEventWire.create(),
        senderId: 'é'.repeat(size / 2),
        payload: new Uint8Array(size).fill(7),
      };
      const event = { ...LogEventWire.create(), kind: { case: 'message' as const, value } };
      return { event, bytes: LogEventWire.encode(event) };
    });
    for (const { event, bytes } of encoded) deepStrictEqual(LogEventWire.decode(bytes), event);
  });

  test('gives fields of bytes as views into what it read, not as Buffers', () => {
    const bytes = PushWire.encode({ ...PushWire.create(), events: [Uint8Array.of(1, 2, 3)] });
    const [event] = PushWire.decode(bytes).events;
    expect(event?.constructor).toBe(Uint8Array);
    expect(event?.buffer).toBe(bytes.buffer);
  });

  test('reads what protobuf-es has written of a frame with every field', () => {
    const frame = create(RouteRequestSchema, {
      hello: { edgeId: 'edge' },
      sequence: 0xffffffff,
      confirmations: [{ session: 1, status: 2, ids: ['a', 'b'] }],
      closedSessions: Array.from({ length: 200 }, (_, i) => i * 1000),
      submits: Array.from({ length: 64 }, (_, ref) => ({ ref, payload: new Uint8Array(ref * 4) })),
    });
    deepStrictEqual(RouteRequestWire.decode(toBinary(RouteRequestSchema, frame)), frame);
  });
});
