import type { LogRecord, MessageLog } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type Opened, until } from './engine.js';
import { eventFor, idOf, type LogEngine, type Member, newKeys, Witness } from './message-log-witness.js';

const keysOf = (member: Member) => new Set([...member.held.values()].map((record) => record.event.userId));

/**
 * Ownership moves while the sessions stay: what consumers that share the log can rely on. The {@link Witness} checks on
 * every hand-out that a key is at one consumer, in order, nothing left out, and nothing handed to two.
 */
export function messageLogGroupsContract(name: string, engine: LogEngine): void {
  describe(`several consumers of the MessageLog on ${name}`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<MessageLog>;
    let witness: Witness;
    const keys = newKeys(64);

    beforeEach(async () => {
      place = await engine.place();
      opened = await engine.open(place.location);
      witness = new Witness(opened.store, engine);
    });

    afterEach(async () => {
      await opened.close();
      await place.remove();
    });

    test('share the keys, each key being at one of them', async () => {
      const members = [await witness.join(), await witness.join(), await witness.join()];
      for (let n = 0; n < 5; n++) await witness.publish(keys);
      await witness.allHandedOut();
      const shares = members.map(keysOf);
      for (const share of shares) expect(share.size).toBeGreaterThan(0);
      expect(shares.reduce((sum, share) => sum + share.size, 0)).toBe(keys.length);
    });

    test('when one joins, the keys that move follow when their owner has acknowledged what it holds of them, or is told that it has lost them', async () => {
      const first = await witness.join();
      await witness.publish(keys);
      await witness.allHandedOut();
      const second = await witness.join();
      await witness.publish(keys);
      await witness.publish(keys);
      expect(second.held.size).toBe(0);
      await witness.until(() => {
        for (const id of [...first.held.keys()].slice(0, 1)) witness.acknowledge(first, [id]);
        return second.held.size > 0 && first.held.size === 0;
      }, 'the second has its keys');
      await witness.drain();
      await witness.publish(keys);
      await witness.allHandedOut();
      expect(first.held.size).toBeGreaterThan(0);
      expect(second.held.size).toBeGreaterThan(0);
    });

    test('one that waits for its keys goes on waiting while others come and go', async () => {
      const first = await witness.join();
      await witness.publish(keys);
      await witness.allHandedOut();
      const second = await witness.join();
      for (let n = 0; n < 4; n++) {
        await witness.publish(keys);
        await witness.leave(await witness.join());
        witness.check();
      }
      await witness.publish(keys);
      await witness.until(() => {
        witness.acknowledge(second);
        witness.acknowledge(first, [...first.held.keys()].slice(0, 1));
        return witness.unacknowledged === 0;
      }, 'all is handed out and acknowledged');
    });

    test('a key that moves while it is published to goes on without a gap', async () => {
      const [key] = newKeys(1) as [string];
      await witness.join();
      const publishing = (async () => {
        for (let n = 0; n < 200; n++) await witness.publish([key]);
      })();
      for (let n = 0; n < 5; n++) {
        const joined = await witness.join();
        await witness.until(() => {
          for (const member of witness.members) witness.acknowledge(member, [...member.held.keys()].slice(0, 2));
          return true;
        }, 'some are acknowledged');
        await witness.publish(keys);
        await witness.leave(n % 2 ? joined : (witness.members[0] as Member));
      }
      await publishing;
      await witness.drain();
    });

    test('when one leaves, the others get what it had not acknowledged, in order and before anything newer', async () => {
      const [first, second] = [await witness.join(), await witness.join()];
      for (let n = 0; n < 5; n++) await witness.publish(keys);
      await witness.allHandedOut();
      witness.acknowledge(second, [...second.held.keys()].slice(0, second.held.size / 2));
      const moved = [...second.held.keys()];
      const publishing = witness.publish(keys);
      await witness.leave(second);
      await publishing;
      await witness.allHandedOut();
      for (const id of moved) expect(first.held.get(id)?.mayRepeat).toBe(true);
      await witness.drain();
    });

    test('what one leaves behind never exceeds what the others may hold', async () => {
      const [first, second] = [await witness.join(20), await witness.join(20)];
      for (let n = 0; n < 5; n++) await witness.publish(keys);
      await witness.until(() => first.held.size === 20 || second.held.size === 20, 'one is full');
      await witness.leave(second);
      await witness.until(() => first.held.size === 20, 'the other is full');
      await witness.drain();
    });

    test('one that leaves while it still waits for its keys leaves them where they were', async () => {
      const first = await witness.join();
      await witness.publish(keys);
      await witness.allHandedOut();
      const second = await witness.join();
      await witness.publish(keys);
      await witness.leave(second);
      await witness.allHandedOut();
      expect(first.held.size).toBe(2 * keys.length);
    });

    test('when all have left, the next one gets everything that is not acknowledged, in order', async () => {
      const members = [await witness.join(), await witness.join()];
      for (let n = 0; n < 3; n++) await witness.publish(keys);
      await witness.allHandedOut();
      for (const member of members) witness.acknowledge(member, [...member.held.keys()].slice(0, 10));
      for (const member of members) await witness.leave(member);
      await witness.publish(keys);
      const next = await witness.join();
      await witness.allHandedOut();
      expect(next.held.size).toBe(4 * keys.length - 20);
      await witness.drain();
    });

    test('acknowledgements of a former owner have no effect', async () => {
      const { store } = opened;
      const [key] = newKeys(1) as [string];
      const former: LogRecord[] = [];
      const latter: LogRecord[] = [];
      const first = await store.consume((records) => void former.push(...records), { maxUnacknowledged: 10 });
      await store.publish([eventFor(key, 'one'), eventFor(key, 'two')]);
      await until(() => former.length === 2, 'the first owner has both');
      await first.close();
      first.acknowledge(former);
      const second = await store.consume((records) => void latter.push(...records), { maxUnacknowledged: 10 });
      await until(() => latter.length === 2, 'the second owner has both');
      first.acknowledge(former);
      expect(second.unacknowledged).toBe(2);
      second.acknowledge(latter.slice(0, 1));
      expect(second.unacknowledged).toBe(1);
      await opened.close();
      opened = await engine.open(place.location);
      const last: LogRecord[] = [];
      await opened.store.consume((records) => void last.push(...records), { maxUnacknowledged: 10 });
      await until(() => last.length > 0, 'the rest comes again');
      expect(last.map((record) => idOf(record.event))).toEqual(['two']);
    });

    test('a key is owned by the consumer that it is handed to, and by no other', async () => {
      const members = [await witness.join(), await witness.join()];
      for (let n = 0; n < 5; n++) await witness.publish(keys);
      await witness.allHandedOut();
      for (const member of members) {
        for (const key of keysOf(member))
          expect(members.filter(({ consumer }) => consumer.owns(key))).toEqual([member]);
      }
    });

    test('leaving twice is leaving once', async () => {
      const [first, second] = [await witness.join(), await witness.join()];
      await witness.leave(second);
      await second.consumer.close();
      await witness.publish(keys);
      await witness.allHandedOut();
      expect(first.held.size).toBe(keys.length);
    });
  });
}
