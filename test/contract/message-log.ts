import { toBinary } from '@bufbuild/protobuf';
import type { LogRecord, MessageLog } from '@chatmesh/chat';
import { LogEventSchema } from '@chatmesh/gen/chat/v1/log';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type Opened, until } from './engine.js';
import { eventFor, idOf, type LogEngine, newKeys, Witness } from './message-log-witness.js';

/** What one consumer can rely on. */
export function messageLogContract(name: string, engine: LogEngine): void {
  describe(`MessageLog on ${name}`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<MessageLog>;
    let witness: Witness;
    const log = () => opened.store;

    beforeEach(async () => {
      place = await engine.place();
      opened = await engine.open(place.location);
      witness = new Witness(log(), engine);
    });

    afterEach(async () => {
      await opened.close();
      await place.remove();
    });

    async function reopen(): Promise<void> {
      await opened.close();
      opened = await engine.open(place.location);
      witness.reopened(log());
    }

    describe('handing out', () => {
      test('events come in the order of publishing, key by key, whether published before or after the consumer joined', async () => {
        const [a, b, c] = newKeys(3) as [string, string, string];
        await witness.publish([a, b, a]);
        await witness.join();
        await Promise.all([witness.publish([a, c]), witness.publish([c, b, a]), witness.publish([b])]);
        await witness.allHandedOut();
        await witness.publish([c, a]);
        await witness.allHandedOut();
      });

      test('an event comes as it was published, encoded and decoded, at the position that publish returned', async () => {
        const event = eventFor(newKeys(1)[0] as string);
        const records: LogRecord[] = [];
        const consumer = await log().consume((batch) => void records.push(...batch), { maxUnacknowledged: 10 });
        const [position] = await log().publish([event]);
        await until(() => records.length === 1, 'the event comes');
        const record = records[0] as LogRecord;
        expect(record.position).toBe(position);
        expect(Buffer.from(record.payload).equals(toBinary(LogEventSchema, event))).toBe(true);
        expect(Buffer.from(toBinary(LogEventSchema, record.event)).equals(record.payload)).toBe(true);
        await consumer.close();
      });

      test('a publisher records once, with the positions that publish returns', async () => {
        const recorded: (readonly string[])[] = [];
        const positions = await log().publish(
          newKeys(3).map((key) => eventFor(key)),
          (given) => void recorded.push(given),
        );
        expect(positions).toHaveLength(3);
        expect(recorded).toEqual([positions]);
      });

      test('a consumer tells when the oldest message that it is not done with was accepted', async () => {
        const key = newKeys(1)[0] as string;
        const events = [eventFor(key), eventFor(key), eventFor(key)];
        for (const [i, { kind }] of events.entries())
          if (kind.case === 'message') kind.value.acceptedAtMs = BigInt(1_000 + i);
        const records: LogRecord[] = [];
        const consumer = await log().consume((batch) => void records.push(...batch), { maxUnacknowledged: 10 });
        expect(consumer.oldestAtMs()).toBeUndefined();
        await log().publish(events);
        await until(() => records.length === 3, 'the events come');
        expect(consumer.oldestAtMs()).toBe(1_000);
        consumer.acknowledge(records.slice(0, 2));
        expect(consumer.oldestAtMs()).toBe(1_002);
        consumer.acknowledge(records.slice(2));
        expect(consumer.oldestAtMs()).toBeUndefined();
        await consumer.close();
      });

      test('nothing published is nothing handed out', async () => {
        expect(await log().publish([])).toEqual([]);
        const member = await witness.join();
        const [id] = await witness.publish(newKeys(1));
        await witness.allHandedOut();
        expect([...member.held.keys()]).toEqual([id]);
        expect(member.consumer.unacknowledged).toBe(1);
      });

      test('at most maxUnacknowledged records are out, also of one large publish, and each acknowledgement lets the next through', async () => {
        const keys = newKeys(5);
        const member = await witness.join(10);
        await witness.publish(Array.from({ length: 200 }, (_, i) => keys[i % 5] as string));
        await witness.until(() => member.held.size === 10, 'ten are out');
        for (let left = 199; left >= 10; left--) {
          witness.acknowledge(member, [...member.held.keys()].slice(0, 1));
          await witness.until(() => member.held.size === 10, 'ten are out again');
          expect(witness.unacknowledged).toBe(left);
        }
        await witness.drain();
      });

      test('records may be acknowledged in any order', async () => {
        const keys = newKeys(4);
        const member = await witness.join(20);
        await witness.publish(Array.from({ length: 100 }, (_, i) => keys[i % 4] as string));
        while (witness.unacknowledged > 0) {
          await witness.until(() => member.held.size > 0, 'something is out');
          witness.acknowledge(member, [...member.held.keys()].reverse().slice(0, 3));
        }
        await witness.allHandedOut();
      });

      test('a backlog of 30,000 events is handed out in order, none lost, and what is published meanwhile comes after it', async () => {
        const keys = newKeys(50);
        for (let from = 0; from < 30_000; from += 1000) {
          await witness.publish(Array.from({ length: 1000 }, (_, i) => keys[(from + i) % 50] as string));
        }
        await reopen();
        const member = await witness.join(500);
        const meanwhile = (async () => {
          for (let n = 0; n < 50; n++) await witness.publish(keys);
        })();
        await witness.drain();
        await meanwhile;
        await witness.drain();
        expect(member.consumer.unacknowledged).toBe(0);
      });

      test('an acknowledgement inside of the handler counts', async () => {
        const ids = new Set<string>();
        const keys = newKeys(3);
        const consumer = await log().consume(
          (records) => {
            for (const { event } of records) ids.add(idOf(event));
            consumer.acknowledge(records);
          },
          { maxUnacknowledged: 7 },
        );
        for (let n = 0; n < 20; n++) await log().publish(keys.map((key) => eventFor(key)));
        await until(() => ids.size === 60 && consumer.unacknowledged === 0, 'all are handled');
        await consumer.close();
      });
    });

    describe('positions', () => {
      // The witness compares the positions of each key's events on every publish and on every hand-out.
      test('grow along a key as text of one width, also after reopening', async () => {
        const [a, b] = newKeys(2) as [string, string];
        for (let n = 0; n < 3; n++) {
          await Promise.all([witness.publish([a, b, a]), witness.publish([b]), witness.publish([a])]);
          await reopen();
        }
        await witness.join();
        await witness.drain();
        await reopen();
        await witness.publish([a, b]);
        witness.check();
      });
    });

    describe('after reopening', () => {
      test('what was not acknowledged is handed out again, marked as a possible repeat; what was acknowledged is not', async () => {
        const [a, b] = newKeys(2) as [string, string];
        const member = await witness.join();
        await witness.publish([a, b, a, b, a]);
        await witness.publish([b, a]);
        await witness.allHandedOut();
        const held = [...member.held.keys()];
        witness.acknowledge(member, [held[1], held[2], held[5]] as string[]);
        await reopen();
        const next = await witness.join();
        await witness.publish([a, b]);
        await witness.allHandedOut();
        expect(next.held.size).toBe(6);
        const again = [...next.held.values()].filter((record) => held.includes(idOf(record.event)));
        expect(again).toHaveLength(4);
        expect(again.every((record) => record.mayRepeat)).toBe(true);
      });

      test('an event that nobody was handed may claim to repeat, but what is published since claims to be new, sooner or later', async () => {
        const keys = newKeys(10);
        await witness.publish(keys);
        await reopen();
        const member = await witness.join(5);
        await witness.publish(keys);
        await witness.drain();
        for (let told = false; !told; ) {
          await witness.publish(keys.slice(0, 1));
          await witness.allHandedOut();
          told = [...member.held.values()].some((record) => !record.mayRepeat);
          await witness.drain();
        }
      });

      test('a publish of which parts are acknowledged, time and again, hands out exactly the rest', async () => {
        const [key] = newKeys(1) as [string];
        await witness.publish(Array.from({ length: 50 }, () => key));
        for (let round = 1; round <= 5; round++) {
          const member = await witness.join();
          await witness.allHandedOut();
          const held = [...member.held.keys()];
          expect(held).toHaveLength(60 - 10 * round);
          // The first five, and five from behind.
          witness.acknowledge(member, [...held.slice(0, 5), ...held.slice(-5)]);
          await reopen();
        }
        const member = await witness.join();
        const last = await witness.publish([key]);
        await witness.allHandedOut();
        expect([...member.held.keys()]).toEqual(last);
      });

      test('an empty log hands out nothing old', async () => {
        const keys = newKeys(3);
        await witness.join();
        await witness.publish(keys);
        await witness.drain();
        await reopen();
        const member = await witness.join();
        await witness.publish(keys);
        await witness.allHandedOut();
        expect(member.held.size).toBe(3);
      });
    });

    test('when something was published last is known after reopening, also when it is acknowledged and the clock was set back', async () => {
      expect(log().publishedUntilMs).toBe(0);
      await opened.close();
      const aheadMs = Date.now() + 3_600_000;
      for (const setByMs of [0, 1_000, -600_000]) {
        opened = await engine.open(place.location, () => aheadMs + setByMs);
        witness.reopened(log());
        await witness.join();
        await witness.publish(newKeys(20));
        await witness.drain();
        await opened.close();
        opened = await engine.open(place.location);
        expect(log().publishedUntilMs).toBeGreaterThanOrEqual(aheadMs + setByMs);
        expect(log().publishedUntilMs).toBeLessThan(aheadMs + 10_000);
        await opened.close();
      }
      opened = await engine.open(place.location);
      witness.reopened(log());
    });

    test('a consumer counts what it has not acknowledged', async () => {
      const member = await witness.join();
      await witness.publish(newKeys(4));
      await witness.allHandedOut();
      expect(member.consumer.unacknowledged).toBe(4);
      witness.acknowledge(member, [...member.held.keys()].slice(0, 3));
      expect(member.consumer.unacknowledged).toBe(1);
      expect(log().writable).toBe(true);
    });
  });
}
