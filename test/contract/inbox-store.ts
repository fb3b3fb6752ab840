import type { InboxRow, InboxStore, Position } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { repeats } from '../long.js';
import { type Engine, newSeed, numbers, type Opened, runUntilKilled } from './engine.js';

const WEEK_MS = 7 * 24 * 3600 * 1000;
const KILLS = repeats(3, 10);
const NOW = Date.UTC(2026, 2, 1, 9, 30);

const ADA = '0a000000-0000-4000-8000-000000000001';
const BOB = '0a000000-0000-4000-8000-000000000002';
const PHONE = '00000000-0000-0000-0000-000000000000';
const LAPTOP = '00000000-0000-0000-0000-000000000001';

/** The position of the n-th event of a log, as text of one width. */
const at = (n: number): Position => n.toString(16).padStart(13, '0');

const contentOf = (n: number) => Buffer.from(`content ${n} ${'x'.repeat(n % 500)}`);

/** Rows of one inbox at the positions given. */
const rows = (userId: string, deviceId: string, ...ns: number[]): InboxRow[] =>
  ns.map((n) => ({ userId, deviceId, position: at(n), payload: contentOf(n) }));

const sequence = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

/** What the inboxes of devices promise. */
export function inboxStoreContract(name: string, engine: Engine<InboxStore>): void {
  describe(`InboxStore on ${name}`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<InboxStore>;
    const store = () => opened.store;

    beforeEach(async () => {
      place = await engine.place();
      opened = await engine.open(place.location);
    });

    afterEach(async () => {
      await opened.close();
      await place.remove();
    });

    async function reopen(): Promise<void> {
      await opened.close();
      opened = await engine.open(place.location);
    }

    /** The positions in an inbox, after checking that each row says whose it is and what it held. */
    async function inbox(userId: string, deviceId: string, after?: number, limit = 100_000): Promise<number[]> {
      const page = await store().page(userId, deviceId, after === undefined ? undefined : at(after), limit);
      return page.map((row) => {
        const n = Number.parseInt(row.position, 16);
        expect({ ...row, payload: Buffer.from(row.payload).toString() }).toEqual({
          userId,
          deviceId,
          position: at(n),
          payload: contentOf(n).toString(),
        });
        return n;
      });
    }

    describe('pages', () => {
      test('come in the order of the log, whatever the order of appending', async () => {
        await store().append(rows(ADA, PHONE, 300, 5, 17), NOW);
        await Promise.all([
          store().append(rows(ADA, PHONE, 16), NOW),
          store().append(rows(ADA, PHONE, 4096, 255), NOW - WEEK_MS),
          store().append(rows(ADA, PHONE, 1), NOW + WEEK_MS),
        ]);
        expect(await inbox(ADA, PHONE)).toEqual([1, 5, 16, 17, 255, 300, 4096]);
      });

      test('begin after the cursor and end at the limit, so that paging meets each row once', async () => {
        await store().append(rows(ADA, PHONE, ...sequence(1, 1000)), NOW);
        const met: number[] = [];
        for (;;) {
          const page = await inbox(ADA, PHONE, met.at(-1), 64);
          if (page.length === 0) break;
          expect(page.length).toBeLessThanOrEqual(64);
          met.push(...page);
        }
        expect(met).toEqual(sequence(1, 1000));
        // A cursor need not be the position of a row.
        await store().remove(ADA, PHONE, [at(500)]);
        expect(await inbox(ADA, PHONE, 500, 2)).toEqual([501, 502]);
        expect(await inbox(ADA, PHONE, 1000)).toEqual([]);
        expect(await inbox(ADA, PHONE, 100_000)).toEqual([]);
      });

      test('of an empty inbox are empty', async () => {
        expect(await inbox(ADA, PHONE)).toEqual([]);
      });

      test('keep what they held when the rows are gone', async () => {
        await store().append(rows(ADA, PHONE, ...sequence(1, 100)), NOW);
        const page = await store().page(ADA, PHONE, undefined, 100);
        await store().clear(ADA, PHONE);
        await store().append(rows(BOB, PHONE, ...sequence(200, 2000)), NOW);
        for (const [i, row] of page.entries()) expect(Buffer.from(row.payload).equals(contentOf(i + 1))).toBe(true);
      });

      test('carry any bytes, also none and 512 KiB of them', async () => {
        const all = Buffer.from(sequence(0, 255));
        const payloads = [all, Buffer.alloc(0), Buffer.alloc(512 * 1024, all)];
        await store().append(
          payloads.map((payload, n) => ({ userId: ADA, deviceId: PHONE, position: at(n), payload })),
          NOW,
        );
        const page = await store().page(ADA, PHONE, undefined, 10);
        expect(page.map((row) => Buffer.from(row.payload).equals(payloads[Number(row.position)] as Buffer))).toEqual([
          true,
          true,
          true,
        ]);
      });
    });

    describe('rows', () => {
      test('that are appended again stay one', async () => {
        await store().append(rows(ADA, PHONE, 1, 2, 3), NOW);
        await store().append(rows(ADA, PHONE, 2, 3, 4), NOW + WEEK_MS);
        expect(await inbox(ADA, PHONE)).toEqual([1, 2, 3, 4]);
      });

      test('that are removed are gone, and the others stay; removing again is no error', async () => {
        await store().append(rows(ADA, PHONE, ...sequence(1, 10)), NOW);
        await store().remove(ADA, PHONE, [at(3), at(7), at(10)]);
        await store().remove(ADA, PHONE, [at(7), at(999)]);
        await store().remove(BOB, PHONE, [at(1)]);
        await store().remove(ADA, PHONE, []);
        expect(await inbox(ADA, PHONE)).toEqual([1, 2, 4, 5, 6, 8, 9]);
      });

      test('may come back after they were removed', async () => {
        await store().append(rows(ADA, PHONE, 1), NOW);
        await store().remove(ADA, PHONE, [at(1)]);
        await store().append(rows(ADA, PHONE, 1), NOW);
        expect(await inbox(ADA, PHONE)).toEqual([1]);
      });

      test('of several inboxes go in by one append, and clearing takes those of one device', async () => {
        await store().append(
          [...rows(ADA, PHONE, ...sequence(1, 2500)), ...rows(ADA, LAPTOP, 1), ...rows(BOB, PHONE, 2)],
          NOW,
        );
        await store().clear(ADA, PHONE);
        expect(await inbox(ADA, PHONE)).toEqual([]);
        expect(await inbox(ADA, LAPTOP)).toEqual([1]);
        expect(await inbox(BOB, PHONE)).toEqual([2]);
        await store().clear(ADA, PHONE);
      });

      test('of neighbouring users and devices are kept apart', async () => {
        // Ids that differ in their first or last place only, and the lowest and the highest there are.
        const ids = [
          PHONE,
          LAPTOP,
          'ffffffff-ffff-ffff-ffff-ffffffffffff',
          'ffffffff-ffff-ffff-ffff-fffffffffffe',
          '10000000-0000-0000-0000-000000000000',
        ];
        let n = 0;
        const expected = new Map<string, number>();
        for (const userId of ids) {
          for (const deviceId of ids) {
            expected.set(`${userId}/${deviceId}`, ++n);
            await store().append(rows(userId, deviceId, n), NOW);
          }
        }
        for (const userId of ids) {
          for (const deviceId of ids) {
            expect(await inbox(userId, deviceId)).toEqual([expected.get(`${userId}/${deviceId}`)]);
            expect(await inbox(userId, deviceId, 0, 1)).toEqual([expected.get(`${userId}/${deviceId}`)]);
          }
        }
        await store().clear(PHONE, PHONE);
        expect(await inbox(PHONE, LAPTOP)).toHaveLength(1);
        expect(await inbox(LAPTOP, PHONE)).toHaveLength(1);
      });
    });

    describe('weeks', () => {
      const byUser = (inboxes: readonly { userId: string; deviceId: string }[]) =>
        inboxes.map(({ userId, deviceId }) => `${userId}/${deviceId}`).sort();

      test('that have ended list the inboxes to which something was added in them, each once', async () => {
        await store().append([...rows(ADA, PHONE, 1), ...rows(ADA, LAPTOP, 1)], NOW);
        await store().append(rows(ADA, PHONE, 2), NOW + WEEK_MS);
        await store().append(rows(BOB, PHONE, 3), NOW + 2 * WEEK_MS);
        expect(await store().aged(NOW - WEEK_MS)).toEqual([]);
        expect(await store().aged(NOW)).toEqual([]);
        expect(byUser(await store().aged(NOW + WEEK_MS))).toEqual([`${ADA}/${PHONE}`, `${ADA}/${LAPTOP}`].sort());
        expect(byUser(await store().aged(NOW + 3 * WEEK_MS))).toEqual(
          [`${ADA}/${PHONE}`, `${ADA}/${LAPTOP}`, `${BOB}/${PHONE}`].sort(),
        );
      });

      test('list an inbox only when the whole week has ended', async () => {
        const begin = Math.ceil(NOW / WEEK_MS) * WEEK_MS;
        await store().append(rows(ADA, PHONE, 1), begin);
        await store().append(rows(BOB, PHONE, 1), begin + WEEK_MS - 1);
        expect(await store().aged(begin + WEEK_MS - 1)).toEqual([]);
        expect(await store().aged(begin + WEEK_MS)).toHaveLength(2);
      });

      test('that are forgotten list nothing, later ones still do, and the rows stay', async () => {
        await store().append(rows(ADA, PHONE, 1), NOW);
        await store().append(rows(BOB, PHONE, 2), NOW + WEEK_MS);
        await store().forgetWeeks(NOW + WEEK_MS);
        expect(await store().aged(NOW + WEEK_MS)).toEqual([]);
        expect(byUser(await store().aged(NOW + 2 * WEEK_MS))).toEqual([`${BOB}/${PHONE}`]);
        expect(await inbox(ADA, PHONE)).toEqual([1]);
        await store().forgetWeeks(NOW + WEEK_MS);
      });

      test('list an inbox again when something is added after they were forgotten', async () => {
        await store().append(rows(ADA, PHONE, 1), NOW);
        await store().forgetWeeks(NOW + WEEK_MS);
        await store().append(rows(ADA, PHONE, 2), NOW);
        expect(byUser(await store().aged(NOW + WEEK_MS))).toEqual([`${ADA}/${PHONE}`]);
      });

      test('are known after reopening', async () => {
        await store().append(rows(ADA, PHONE, 1), NOW);
        await reopen();
        expect(byUser(await store().aged(NOW + WEEK_MS))).toEqual([`${ADA}/${PHONE}`]);
        await store().append(rows(ADA, PHONE, 2), NOW);
        await store().forgetWeeks(NOW + WEEK_MS);
        await reopen();
        expect(await store().aged(NOW + WEEK_MS)).toEqual([]);
      });
    });

    describe('durability', () => {
      test('rows and removals are there after reopening', async () => {
        await store().append(rows(ADA, PHONE, ...sequence(1, 20)), NOW);
        await store().remove(ADA, PHONE, sequence(1, 10).map(at));
        await store().append(rows(BOB, LAPTOP, 1), NOW);
        await store().clear(BOB, LAPTOP);
        await reopen();
        expect(await inbox(ADA, PHONE)).toEqual(sequence(11, 20));
        expect(await inbox(BOB, LAPTOP)).toEqual([]);
      });

      test('what had resolved before a kill -9 has happened', async () => {
        const below = numbers(newSeed('kills while writing inboxes'));
        const model = new Set<number>();
        const removals = new Set<number>();
        await opened.close();
        for (let round = 0; round < KILLS; round++) {
          const args = [ADA, PHONE, String(round * 100_000), String(below(1_000_000))];
          for (const line of await runUntilKilled('./inbox-store-victim.js', engine, place.location, ...args)) {
            const [what, n] = line.split(' ') as [string, string];
            if (what === 'appended') model.add(Number(n));
            // Told before it is asked for: at a kill it may have happened or not.
            else if (what === 'removing') removals.add(Number(n));
            else model.delete(Number(n));
          }
        }
        opened = await engine.open(place.location);
        const found = new Set(await inbox(ADA, PHONE));
        for (const n of model) if (!found.has(n) && !removals.has(n)) throw new Error(`row ${n} is lost`);
        const removed = [...removals].filter((n) => !model.has(n) && found.has(n));
        expect(removed).toEqual([]);
      });
    });
  });
}
