import { randomUUID } from 'node:crypto';
import type { Attempts } from '@chatmesh/chat';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { AttemptsModel } from './attempts-model.js';

const ROUTERS = 3;
const NOW_MS = Date.UTC(2026, 2, 1);

export interface OpenedAttempts {
  /** The same store as several routers reach it. */
  readonly routers: readonly Attempts[];
  close(): Promise<void>;
}

/** What every store of attempts promises. `open` reaches an empty one from so many routers. */
export function attemptsContract(engine: string, open: (routers: number) => Promise<OpenedAttempts>): void {
  describe(`attempts on ${engine}`, () => {
    let opened: OpenedAttempts;
    let first: Attempts;
    let second: Attempts;
    let senderId: string;

    beforeAll(async () => {
      opened = await open(ROUTERS);
      [first, second] = opened.routers as [Attempts, Attempts];
    });
    afterAll(() => opened.close());
    beforeEach(() => {
      senderId = randomUUID();
    });

    const attempt = (fingerprint = 'aa') => ({ serverMessageId: randomUUID(), fingerprint });

    test('a first attempt is told of no other one', async () => {
      const answer = await first.begin(senderId, NOW_MS, [attempt(), attempt()]);
      expect(answer).toEqual({ before: 'nobody', latestMs: 0, first: [undefined, undefined] });
    });

    test('every later attempt at a message, through whichever router, is told the fingerprint of the first', async () => {
      const again = attempt('aa');
      await first.begin(senderId, NOW_MS, [again]);
      for (const router of [second, first]) {
        const answer = await router.begin(senderId, NOW_MS, [attempt(), { ...again, fingerprint: 'bb' }]);
        expect(answer.first).toEqual([undefined, 'aa']);
      }
    });

    test('a router is told whether another one has worked for the sender since it did', async () => {
      const standing = async (router: Attempts) => (await router.begin(senderId, NOW_MS, [attempt()])).before;
      expect(await standing(first)).toBe('nobody');
      expect(await standing(first)).toBe('here');
      expect(await standing(second)).toBe('elsewhere');
      expect(await standing(second)).toBe('here');
      expect(await standing(first)).toBe('elsewhere');
    });

    test('a device that one router announces is news to another one', async () => {
      await first.begin(senderId, NOW_MS, [attempt()]);
      expect(await second.begin(senderId, 0, [])).toMatchObject({ before: 'elsewhere', first: [] });
      expect(await first.begin(senderId, NOW_MS, [attempt()])).toMatchObject({ before: 'elsewhere', latestMs: NOW_MS });
    });

    test('the latest time that any router named is told to all', async () => {
      const aheadMs = NOW_MS + 86_400_000;
      await first.begin(senderId, aheadMs, [attempt()]);
      expect((await second.begin(senderId, NOW_MS, [attempt()])).latestMs).toBe(aheadMs);
      expect((await first.begin(senderId, aheadMs + 1, [attempt()])).latestMs).toBe(aheadMs);
      expect((await second.begin(senderId, NOW_MS, [attempt()])).latestMs).toBe(aheadMs + 1);
    });

    test('senders have nothing to do with one another', async () => {
      await first.begin(randomUUID(), NOW_MS, [attempt()]);
      expect(await second.begin(randomUUID(), NOW_MS, [attempt()])).toMatchObject({ before: 'nobody', latestMs: 0 });
    });

    test('whatever routers ask, in whatever order, is answered as by the simplest store', async () => {
      const question = fc.record({
        router: fc.nat({ max: ROUTERS - 1 }),
        sender: fc.nat({ max: 1 }),
        atMs: fc.integer({ min: NOW_MS, max: NOW_MS + 5 }),
        messages: fc.array(fc.record({ id: fc.nat({ max: 5 }), fingerprint: fc.constantFrom('aa', 'bb') }), {
          maxLength: 4,
        }),
      });
      await fc.assert(
        fc.asyncProperty(fc.array(question, { maxLength: 30 }), async (questions) => {
          const model = new AttemptsModel(() => 0);
          const senders = [randomUUID(), randomUUID()];
          const ids = Array.from({ length: 6 }, () => randomUUID());
          for (const { router, sender, atMs, messages } of questions) {
            const attempts = messages.map(({ id, fingerprint }) => ({
              serverMessageId: ids[id] as string,
              fingerprint,
            }));
            const asked = [senders[sender] as string, atMs, attempts] as const;
            expect(await opened.routers[router]?.begin(...asked)).toEqual(model.begin(`${router}`, ...asked));
          }
        }),
        { numRuns: 50 },
      );
    });
  });
}
