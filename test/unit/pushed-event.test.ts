import { create, toBinary } from '@bufbuild/protobuf';
import { addEvent } from '@chatmesh/edge/domain/json';
import { PushedEvent } from '@chatmesh/edge/domain/pushed-event';
import { TextFrames } from '@chatmesh/edge/domain/text-frames';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { type LogEvent, LogEventSchema, type MessagePayload, MessagePayloadSchema } from '@chatmesh/gen/chat/v1/log';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

const DEVICE = '0b6b0a53-17a4-4a2b-9d35-1f0c5a5e7d11';
const STATUSES = {
  [MessageStatus.DELIVERED]: 'delivered',
  [MessageStatus.READ]: 'read',
  [MessageStatus.FAILED]: 'failed',
};

const pushed = new PushedEvent();

/** The JSON text that a device is sent of an event. */
function textOf(event: LogEvent): string {
  const frames = new TextFrames();
  addEvent(frames, pushed.read(toBinary(LogEventSchema, event)), DEVICE);
  const bytes = frames.finish();
  const [, size = 0] = bytes;
  const head = size < 126 ? 2 : size === 126 ? 4 : 10;
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(head));
}

const time = fc.date({ min: new Date(0), max: new Date('9999-12-31T23:59:59.999Z'), noInvalidDate: true });
const uuid = fc.uuid();
// Long enough for every length that a frame's head can have.
const content = fc.oneof(
  { weight: 5, arbitrary: fc.string({ unit: 'grapheme', minLength: 1 }) },
  { weight: 5, arbitrary: fc.string({ unit: 'binary' }) },
  { weight: 1, arbitrary: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 3 }).map((s) => s.repeat(10_000)) },
);
const bytes = fc.uint8Array({ minLength: 1, maxLength: 200 });
const sealed = fc.record({
  body: bytes,
  headers: fc.oneof(
    fc.constant({}),
    fc.record({ keyId: fc.string({ minLength: 1, maxLength: 64 }), data: bytes }).map((key) => ({ [DEVICE]: key })),
  ),
});
const payload = fc.oneof(
  content.map((value): MessagePayload['payload'] => ({ case: 'content', value })),
  sealed.map((value) => create(MessagePayloadSchema, { payload: { case: 'sealed', value } }).payload),
);

const base64 = (data: Uint8Array | undefined) => data && Buffer.from(data).toString('base64');

function payloadJson(of: MessagePayload['payload']): object {
  if (of.case !== 'sealed') return { content: of.value ?? '' };
  const header = of.value.headers[DEVICE];
  const own = header && { key_id: header.keyId, data: base64(header.data) };
  return { sealed: { body: base64(of.value.body), ...own } };
}

describe('the frame of an event', () => {
  test('says of a message who sent it, when, and what, and to whom of a copy', () => {
    const property = fc.property(
      uuid,
      uuid,
      uuid,
      time,
      payload,
      fc.boolean(),
      (id, sender, receiver, at, what, copy) => {
        const value = {
          serverMessageId: id,
          clientMessageId: sender,
          senderId: sender,
          senderDeviceId: DEVICE,
          receiverId: receiver,
          acceptedAtMs: BigInt(at.getTime()),
          payload: toBinary(MessagePayloadSchema, create(MessagePayloadSchema, { payload: what })),
          copy,
          fingerprint: 'f',
          traceparent: 't',
          receivedAtMs: 1n,
        };
        const event = create(LogEventSchema, { userId: receiver, kind: { case: 'message', value }, redriven: copy });
        expect(JSON.parse(textOf(event))).toEqual({
          sender_id: sender,
          ...(copy && { receiver_id: receiver }),
          ...payloadJson(what),
          timestamp: at.toISOString(),
          server_message_id: id,
        });
      },
    );
    fc.assert(property, { numRuns: 1000 });
  });

  test('says of a receipt what became of which message, and why it failed', () => {
    const status = fc.constantFrom(MessageStatus.DELIVERED, MessageStatus.READ, MessageStatus.FAILED);
    const property = fc.property(uuid, uuid, uuid, time, status, fc.string(), (id, client, eventId, at, what, code) => {
      const value = {
        eventId,
        serverMessageId: id,
        clientMessageId: client,
        status: what,
        atMs: BigInt(at.getTime()),
        code,
        traceparent: 't',
      };
      const event = create(LogEventSchema, { userId: id, kind: { case: 'receipt', value } });
      expect(JSON.parse(textOf(event))).toEqual({
        status: STATUSES[what],
        timestamp: at.toISOString(),
        server_message_id: id,
        client_message_id: client,
        event_id: eventId,
        ...(code !== '' && { code }),
      });
    });
    fc.assert(property);
  });

  test('has nothing of the event before it', () => {
    const failed = { eventId: 'e', serverMessageId: 'm', status: MessageStatus.FAILED, code: 'not_found' };
    const sent = { serverMessageId: 'm', receiverId: 'r', copy: true };
    textOf(create(LogEventSchema, { kind: { case: 'receipt', value: failed } }));
    textOf(create(LogEventSchema, { kind: { case: 'message', value: sent } }));
    const text = textOf(create(LogEventSchema, { kind: { case: 'receipt', value: { status: MessageStatus.READ } } }));
    expect(JSON.parse(text)).toEqual({
      status: 'read',
      timestamp: '1970-01-01T00:00:00.000Z',
      server_message_id: '',
      client_message_id: '',
      event_id: '',
    });
  });

  test('is refused when the bytes are cut off', () => {
    const whole = toBinary(
      LogEventSchema,
      create(LogEventSchema, { kind: { case: 'receipt', value: { eventId: 'e' } } }),
    );
    for (let length = 1; length < whole.length; length++)
      expect(() => pushed.read(whole.subarray(0, length))).toThrow(RangeError);
  });

  test('of another kind than message and receipt is none', () => {
    const event = create(LogEventSchema, { userId: 'u', kind: { case: 'close', value: { deviceId: DEVICE } } });
    expect(pushed.read(toBinary(LogEventSchema, event)).kind).toBeUndefined();
  });
});
