import { parseFrame } from '@chatmesh/edge/domain/frames';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { describe, expect, test } from '@jest/globals';

const [A, B, C] = ['a', 'b', 'c'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000`) as [
  string,
  string,
  string,
];
const SEND = { sender_id: A, receiver_id: B, content: 'hi', client_message_id: C };

const parse = (frame: unknown) => parseFrame(JSON.stringify(frame));

describe('a field that is null is one that is absent', () => {
  test.each([
    [
      'a message to a user',
      { ...SEND, group_id: null, sealed: null, timestamp: null, status: null, ack: null },
      'send',
    ],
    ['a message to a group', { ...SEND, receiver_id: null, group_id: B }, 'send'],
    ['a receipt of one', { status: 'read', server_message_id: A, server_message_ids: null, content: null }, 'confirm'],
    [
      'a receipt of many',
      { status: 'read', server_message_ids: [A], server_message_id: null, sealed: null },
      'confirm',
    ],
    ['an ack', { content: null, sealed: null, status: null, ack: [A] }, 'confirm'],
    ['a token', { ack: null, auth: { token: 't' } }, 'auth'],
    ['presence', { auth: null, presence: { subscribe: [A], unsubscribe: null } }, 'presence'],
    ['typing to a user', { presence: null, typing: { receiver_id: A, group_id: null, active: true } }, 'typing'],
    ['typing in a group', { typing: { receiver_id: null, group_id: A, active: false } }, 'typing'],
  ])('%s', (_, frame, kind) => {
    expect(parse(frame).kind).toBe(kind);
  });

  test('what has to be there is missing', () => {
    for (const field of ['sender_id', 'receiver_id', 'content', 'client_message_id'])
      expect(() => parse({ ...SEND, [field]: null })).toThrow();
    expect(() => parse({ status: 'read', server_message_id: null })).toThrow('exactly one of');
    expect(() => parse({ typing: { receiver_id: A, active: null } })).toThrow('typing.active');
    expect(() => parse({ content: null })).toThrow('none of');
  });
});

describe('a timestamp is RFC 3339', () => {
  const at = (timestamp: string) => () => parse({ ...SEND, timestamp });

  test.each([
    '2026-03-01T09:30:00.123Z',
    '2026-03-01t09:30:00z',
    '2026-03-01T09:30:00.1z',
    '2026-03-01T09:30:00.12345678901234567890+05:30',
    '2026-03-01T09:30:00-00:00',
    '2026-03-01T09:30:00+23:59',
    '1990-12-31T23:59:60Z',
    '1990-12-31T15:59:60-08:00',
    '2016-12-31t23:59:60.5z',
    '2017-01-01T05:29:60+05:30',
    '2024-02-29T00:00:00Z',
    '2000-02-29T00:00:00Z',
    '0000-01-01T00:00:00Z',
    '0001-01-01T00:00:00Z',
    '9999-12-31T23:59:59Z',
  ])('%s', (timestamp) => {
    expect(at(timestamp)).not.toThrow();
  });

  test.each([
    '',
    '2026-03-01',
    '2026-03-01 09:30:00Z',
    '2026-03-01T09:30:00',
    '2026-03-01T09:30Z',
    '2026-3-01T09:30:00Z',
    '2026-00-01T09:30:00Z',
    '2026-13-01T09:30:00Z',
    '2026-02-29T09:30:00Z',
    '2100-02-29T09:30:00Z',
    '2026-04-31T09:30:00Z',
    '2026-03-00T09:30:00Z',
    '2026-03-01T24:00:00Z',
    '2026-03-01T09:60:00Z',
    '2026-03-01T09:30:61Z',
    '2026-03-01T09:30:60Z',
    '1990-12-31T23:58:60Z',
    '1990-12-30T23:59:60Z',
    '1990-12-31T23:59:60-08:00',
    '2026-03-01T09:30:00.Z',
    '2026-03-01T09:30:00,5Z',
    '2026-03-01T09:30:00+24:00',
    '2026-03-01T09:30:00+05:60',
    '2026-03-01T09:30:00+0530',
    '2026-03-01T09:30:00Z ',
    '+002026-03-01T09:30:00Z',
    '２026-03-01T09:30:00Z',
  ])('not "%s"', (timestamp) => {
    expect(at(timestamp)).toThrow('timestamp must be an RFC 3339 time');
  });
});

test('of two fields of one name the last one counts', () => {
  expect(
    parseFrame(`{"status":"delivered","status":"read","server_message_id":"${A}","server_message_id":"${B}"}`),
  ).toEqual({
    kind: 'confirm',
    status: MessageStatus.READ,
    ids: [B],
  });
  expect(() => parseFrame(`{"ack":["${A}"],"ack":null}`)).toThrow('none of');
});

test('content with a lone surrogate is refused, with a pair it is not', () => {
  for (const content of ['"\\ud800"', '"a\\udc00b"', '"\\udc00\\ud800"'])
    expect(() => parseFrame(JSON.stringify(SEND).replace('"hi"', content))).toThrow('lone surrogate');
  expect(parseFrame(JSON.stringify(SEND).replace('"hi"', '"\\ud83d\\ude00"')).kind).toBe('send');
});
