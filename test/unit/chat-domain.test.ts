import { createHash, createHmac, randomBytes } from 'node:crypto';
import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { AcceptLimit } from '@chatmesh/chat/domain/accept-limit';
import { confirmableId, deviceMark, receiptOf, standingReceipt } from '@chatmesh/chat/domain/events';
import { Fingerprinter } from '@chatmesh/chat/domain/fingerprint';
import { derivedId, isUuid, NIL_DEVICE, receiptEventId, serverMessageId } from '@chatmesh/chat/domain/ids';
import { TokenBuckets } from '@chatmesh/chat/domain/token-bucket';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { LogEventSchema, type ReceiptEvent } from '@chatmesh/gen/chat/v1/log';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { eventFor } from '../contract/message-log-witness.js';

const SENDER = '11111111-1111-4111-8111-111111111111';
const CLIENT_ID = '22222222-2222-4222-8222-222222222222';
const NOW = Date.UTC(2026, 2, 1, 9, 30);

describe('derived ids', () => {
  test('are UUIDs of version 8 (RFC 9562), whatever they are derived from', () => {
    fc.assert(
      fc.property(fc.array(fc.string(), { maxLength: 4 }), (parts) => {
        const id = derivedId(...parts);
        expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
        expect(isUuid(id)).toBe(true);
        expect(derivedId(...parts)).toBe(id);
      }),
      { numRuns: 500 },
    );
  });

  test('are the bits of SHA-256 over the parts but for version and variant', () => {
    const digest = createHash('sha256').update('message/a/b').digest();
    const bits = (bytes: Buffer) => {
      const copy = Buffer.from(bytes.subarray(0, 16));
      copy[6] = ((copy[6] as number) & 0x0f) | 0x80;
      copy[8] = ((copy[8] as number) & 0x3f) | 0x80;
      return copy.toString('hex');
    };
    expect(derivedId('message', 'a', 'b').replaceAll('-', '')).toBe(bits(digest));
  });

  // These two are on disk and on the wire: a change here would give messages that are on their way a second id.
  test('stay what they are from version to version', () => {
    expect(serverMessageId(SENDER, CLIENT_ID)).toBe('ca7224a4-16f1-813f-b669-2cc0414fdf50');
    expect(receiptEventId(serverMessageId(SENDER, CLIENT_ID), MessageStatus.DELIVERED)).toBe(
      'ea7224a4-16f1-813f-b669-2cc0414fdf50',
    );
  });

  test('differ with the sender, the client id, and the kind', () => {
    const ids = new Set<string>();
    for (let n = 0; n < 5000; n++)
      ids.add(serverMessageId(SENDER, `client-${n}`)).add(serverMessageId(`sender-${n}`, CLIENT_ID));
    expect(ids.size).toBe(10_000);
    expect(serverMessageId(SENDER, CLIENT_ID)).not.toBe(serverMessageId(CLIENT_ID, SENDER));
    expect(derivedId('receipt', SENDER, '3')).not.toBe(derivedId('message', SENDER, '3'));
  });

  test('are told from other text', () => {
    for (const id of [SENDER, NIL_DEVICE, 'ffffffff-ffff-ffff-ffff-ffffffffffff']) expect(isUuid(id)).toBe(true);
    const others = [
      '',
      SENDER.slice(1),
      `${SENDER}0`,
      SENDER.replaceAll('-', ''),
      `{${SENDER.slice(2)}}`,
      ` ${SENDER.slice(1)}`,
    ];
    for (const text of [...others, 'ABCDEF00-0000-4000-8000-000000000000', 'g0000000-0000-4000-8000-000000000000']) {
      expect(isUuid(text)).toBe(false);
    }
  });
});

describe('fingerprints', () => {
  test('are HMAC-SHA-256 under the key over recipient and payload, cut to 128 bits', () => {
    const recipient = fc.uuid();
    const key = fc.uint8Array({ minLength: 32, maxLength: 64 });
    fc.assert(
      fc.property(key, recipient, fc.uint8Array({ maxLength: 9000 }), (key, recipientId, payload) => {
        const hmac = createHmac('sha256', key).update(recipientId, 'latin1').update(payload).digest('hex');
        expect(new Fingerprinter(key).of(recipientId, payload)).toBe(hmac.slice(0, 32));
      }),
      { numRuns: 300 },
    );
  });

  test('differ with key, recipient and content', () => {
    const [one, other] = [new Fingerprinter(randomBytes(32)), new Fingerprinter(randomBytes(32))];
    const yes = Buffer.from('yes');
    const fingerprints = [
      one.of(SENDER, yes),
      other.of(SENDER, yes),
      one.of(CLIENT_ID, yes),
      one.of(SENDER, Buffer.from('no')),
    ];
    expect(new Set(fingerprints).size).toBe(4);
    expect(one.of(SENDER, Buffer.from('yes'))).toBe(fingerprints[0]);
  });
});

describe('the rate of a user', () => {
  test('allows the burst at once, then one send per token', () => {
    const buckets = new TokenBuckets({ rate: 200, burst: 1000 });
    for (let n = 0; n < 1000; n++) expect(buckets.take('ada', NOW)).toBe(0);
    expect(buckets.take('ada', NOW)).toBe(5);
    expect(buckets.take('ada', NOW + 4)).toBe(1);
    expect(buckets.take('ada', NOW + 5)).toBe(0);
    expect(buckets.take('ada', NOW + 5)).toBe(5);
  });

  test('over any time is no more than burst and rate, and whoever waits as told is let through', () => {
    const limit = { rate: fc.integer({ min: 1, max: 1000 }), burst: fc.integer({ min: 1, max: 100 }) };
    fc.assert(
      fc.property(fc.record(limit), fc.array(fc.nat(200), { maxLength: 300 }), ({ rate, burst }, pauses) => {
        const buckets = new TokenBuckets({ rate, burst });
        let now = NOW;
        let taken = 0;
        for (const pause of pauses) {
          now += pause;
          const wait = buckets.take('ada', now);
          if (wait > 0) {
            now += wait;
            // Rounding may ask for one more millisecond.
            if (buckets.take('ada', now) > 0) expect(buckets.take('ada', ++now)).toBe(0);
          }
          taken++;
          expect(taken).toBeLessThanOrEqual(burst + ((now - NOW) * rate) / 1000 + 1e-6);
        }
      }),
    );
  });

  test('never saves up more than the burst, and is nobody else’s', () => {
    const buckets = new TokenBuckets({ rate: 10, burst: 3 });
    for (let n = 0; n < 3; n++) expect(buckets.take('ada', NOW)).toBe(0);
    const later = NOW + 3_600_000;
    for (let n = 0; n < 3; n++) expect(buckets.take('ada', later)).toBe(0);
    expect(buckets.take('ada', later)).toBeGreaterThan(0);
    expect(buckets.take('bob', later)).toBe(0);
  });

  test('is unlimited at 0', () => {
    const buckets = new TokenBuckets({ rate: 0, burst: 0 });
    for (let n = 0; n < 10_000; n++) expect(buckets.take('ada', NOW)).toBe(0);
  });

  test('is not forgotten by a sweep before the bucket is full again', () => {
    const buckets = new TokenBuckets({ rate: 10, burst: 10 });
    for (let n = 0; n < 10; n++) buckets.take('ada', NOW);
    buckets.sweep(NOW + 500);
    for (let n = 0; n < 5; n++) expect(buckets.take('ada', NOW + 500)).toBe(0);
    expect(buckets.take('ada', NOW + 500)).toBeGreaterThan(0);
    buckets.sweep(NOW + 10_000);
    for (let n = 0; n < 10; n++) expect(buckets.take('ada', NOW + 10_000)).toBe(0);
    expect(buckets.take('ada', NOW + 10_000)).toBeGreaterThan(0);
  });
});

describe('receipts', () => {
  const subject = { serverMessageId: serverMessageId(SENDER, CLIENT_ID), clientMessageId: CLIENT_ID, senderId: SENDER };
  const receiptIn = (event: ReturnType<typeof receiptOf>) => event.kind.value as ReceiptEvent;

  test('go to the sender and say what became of which message', () => {
    const event = receiptOf(subject, MessageStatus.FAILED, NOW, 'expired');
    expect(event.userId).toBe(SENDER);
    expect(receiptIn(event)).toMatchObject({
      serverMessageId: subject.serverMessageId,
      clientMessageId: CLIENT_ID,
      status: MessageStatus.FAILED,
      atMs: BigInt(NOW),
      code: 'expired',
    });
  });

  test('of one status have one event id whenever they are made, and those of another status have another', () => {
    const statuses = [MessageStatus.DELIVERED, MessageStatus.READ, MessageStatus.FAILED];
    const ids = statuses.map((status) => receiptIn(receiptOf(subject, status, NOW)).eventId);
    expect(new Set(ids).size).toBe(3);
    expect(statuses.map((status) => receiptIn(receiptOf(subject, status, NOW + 5000, 'x')).eventId)).toEqual(ids);
    const other = { ...subject, serverMessageId: serverMessageId(SENDER, SENDER) };
    expect(receiptIn(receiptOf(other, MessageStatus.READ, NOW)).eventId).not.toBe(ids[1]);
  });

  test('that stand for a record say the furthest that it has come, under the same event id as when it came', () => {
    const record = { ...subject, deliveredAtMs: 0, readAtMs: 0, failedAtMs: 0, code: '' };
    expect(standingReceipt(record)).toBeUndefined();
    const standing = (fields: Partial<typeof record>) => standingReceipt({ ...record, ...fields });
    const made = (...args: [MessageStatus, number, string?]) => toBinary(LogEventSchema, receiptOf(subject, ...args));
    expect(standing({ deliveredAtMs: 5 })).toEqual(made(MessageStatus.DELIVERED, 5));
    expect(standing({ deliveredAtMs: 5, readAtMs: 9 })).toEqual(made(MessageStatus.READ, 9));
    expect(standing({ failedAtMs: 7, code: 'expired' })).toEqual(made(MessageStatus.FAILED, 7, 'expired'));
  });

  test('are confirmed by their event id, messages by theirs, and nothing else is', () => {
    const event = receiptOf(subject, MessageStatus.READ, NOW);
    expect(confirmableId(event)).toBe(receiptEventId(subject.serverMessageId, MessageStatus.READ));
    expect(confirmableId(eventFor(SENDER, 'the id'))).toBe('the id');
    expect(confirmableId(fromBinary(LogEventSchema, new Uint8Array()))).toBeUndefined();
  });

  test('of a copy are not taken for those of the message, also on the same device', () => {
    expect(deviceMark(true, NIL_DEVICE)).not.toBe(deviceMark(false, NIL_DEVICE));
    expect(deviceMark(false, SENDER)).toBe(SENDER);
  });
});

describe('the limit of what is accepted at a time', () => {
  let lagMs = 0;
  let nowMs = 0;
  const limitAfter = (limit: AcceptLimit, steps: number) => {
    for (let i = 0; i < steps; i++) {
      nowMs += 200;
      limit.value;
    }
    return limit.value;
  };

  test('falls by shares while the log is slow, not below 16, and rises by steps when it is not', () => {
    const limit = new AcceptLimit(
      () => lagMs,
      () => nowMs,
    );
    expect(limit.value).toBe(2_048);
    lagMs = 2_000;
    expect(limitAfter(limit, 1)).toBeLessThan(2_048);
    expect(limitAfter(limit, 50)).toBe(16);
    lagMs = 100;
    expect(limitAfter(limit, 1)).toBe(16 + 128);
    expect(limitAfter(limit, 50)).toBe(2_048);
  });

  test('changes once in a while, however often it is asked for', () => {
    const limit = new AcceptLimit(
      () => 2_000,
      () => nowMs,
    );
    nowMs += 200;
    const { value } = limit;
    expect([limit.value, limit.value]).toEqual([value, value]);
  });

  test('rises all the way while nobody asks', () => {
    lagMs = 2_000;
    const limit = new AcceptLimit(
      () => lagMs,
      () => nowMs,
    );
    limitAfter(limit, 50);
    lagMs = 0;
    nowMs += 60_000;
    expect(limit.value).toBe(2_048);
  });
});
