import { randomUUID } from 'node:crypto';
import type { StatusRecord, StatusStore } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { repeats } from '../long.js';
import { type Engine, newSeed, numbers, type Opened, runUntilKilled } from './engine.js';
import { newRecord, plain, updateOf } from './status-store-model.js';

const KILLS = repeats(3, 10);
const NOW = Date.UTC(2026, 2, 1, 9, 30);
const DEVICES = Array.from({ length: 3 }, () => randomUUID());

/** What the status records of messages promise. */
export function statusStoreContract(name: string, engine: Engine<StatusStore>): void {
  describe(`StatusStore on ${name}`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<StatusStore>;
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

    async function get(record: StatusRecord): Promise<StatusRecord | undefined> {
      return plain((await store().get([record.serverMessageId]))[0]);
    }

    describe('acceptance', () => {
      test('is recorded in full, and kept by a second one', async () => {
        const record = newRecord(NOW, { position: '00000000000ff', fingerprint: 'ab'.repeat(16) });
        await store().accept([record]);
        await store().accept([
          { ...record, acceptedAtMs: NOW + 5, position: '0000000000100', fingerprint: 'cd'.repeat(16) },
        ]);
        expect(await get(record)).toEqual(record);
        await reopen();
        await store().accept([{ ...record, acceptedAtMs: NOW + 9 }]);
        expect(await get(record)).toEqual(record);
      });

      test('of two copies records the one with the lower position, whichever comes first', async () => {
        const record = newRecord(NOW);
        const other = { ...record, acceptedAtMs: NOW + 5, position: '0000000000100' };
        await store().accept([other]);
        await store().update([updateOf(record, { deliveredAtMs: NOW + 6, deviceId: DEVICES[0] })]);
        await store().accept([record]);
        const kept = { ...record, deliveredAtMs: NOW + 6, devices: [DEVICES[0]] };
        expect(await get(record)).toEqual(kept);
        await store().accept([other]);
        await reopen();
        expect(await get(record)).toEqual(kept);
      });

      test('of two copies at once records the one with the lower position', async () => {
        const record = newRecord(NOW);
        const other = { ...record, position: '0000000000100' };
        await Promise.all([store().accept([record]), store().accept([other]), store().accept([other, record])]);
        expect(await get(record)).toEqual(record);
        await reopen();
        expect(await get(record)).toEqual(record);
      });

      test('of the same record resolves for nobody before it is durable', async () => {
        const seed = newSeed('kills after a second acceptance');
        const below = numbers(seed);
        const told: string[] = [];
        await opened.close();
        for (let round = 0; round < KILLS; round++) {
          told.push(
            ...(await runUntilKilled(
              './status-store-victim.js',
              engine,
              place.location,
              'second',
              String(below(1_000_000)),
            )),
          );
        }
        opened = await engine.open(place.location);
        const found = await store().get(told);
        expect(told.length).toBeGreaterThanOrEqual(KILLS);
        // Not by toEqual, which takes undefined in an array for nothing.
        expect(found.filter((record) => record === undefined)).toHaveLength(0);
      });

      test('does not undo what is known already', async () => {
        const record = newRecord(NOW);
        await store().update([updateOf(record, { base: () => record, deliveredAtMs: NOW + 1, deviceId: DEVICES[0] })]);
        await store().accept([record]);
        expect(await get(record)).toEqual({ ...record, deliveredAtMs: NOW + 1, devices: [DEVICES[0]] });
      });

      test('of nothing resolves', async () => {
        await store().accept([]);
        await store().update([]);
        expect(await store().get([])).toEqual([]);
      });
    });

    describe('a look-up', () => {
      test('answers in the order asked, unknown ones by undefined, and repeats as often as asked', async () => {
        const [a, b] = [newRecord(NOW), newRecord(NOW + 1)];
        await store().accept([a, b]);
        const unknown = randomUUID();
        const ids = [b.serverMessageId, unknown, a.serverMessageId, b.serverMessageId];
        expect((await store().get(ids)).map(plain)).toEqual([b, undefined, a, b]);
      });

      test('sees each write whose promise has resolved', async () => {
        for (let n = 0; n < 50; n++) {
          const record = newRecord(NOW + n);
          await store().accept([record]);
          expect(await get(record)).toEqual(record);
          await store().update([updateOf(record, { readAtMs: NOW + n + 1 })]);
          expect((await get(record))?.readAtMs).toBe(NOW + n + 1);
        }
      });

      test('tells apart ids that differ in one digit', async () => {
        const ids = [
          '00000000-0000-8000-8000-000000000000',
          '00000000-0000-8000-8000-000000000001',
          '10000000-0000-8000-8000-000000000000',
        ];
        await store().accept(ids.slice(0, 2).map((serverMessageId, n) => newRecord(NOW + n, { serverMessageId })));
        expect((await store().get(ids)).map((record) => plain(record)?.acceptedAtMs)).toEqual([
          NOW,
          NOW + 1,
          undefined,
        ]);
      });
    });

    describe('an update', () => {
      test('merges: the earliest time of each kind stays, with its code, and devices are a set', async () => {
        const record = newRecord(NOW);
        await store().accept([record]);
        const updates = [
          { deliveredAtMs: NOW + 20, takenAtMs: NOW + 5, transmittedAtMs: NOW + 8, deviceId: DEVICES[0] },
          { deliveredAtMs: NOW + 10, takenAtMs: NOW + 6, transmittedAtMs: NOW + 7, deviceId: DEVICES[1] },
          { deliveredAtMs: NOW + 30, deviceId: DEVICES[0] },
          { readAtMs: NOW + 40 },
          { readAtMs: NOW + 50, deviceId: DEVICES[2] },
          { failedAtMs: NOW + 70, code: 'late' },
          { failedAtMs: NOW + 60, code: 'expired' },
          { failedAtMs: NOW + 80, code: 'later' },
          {},
        ];
        for (const update of updates) await store().update([updateOf(record, update)]);
        const merged = {
          ...record,
          deliveredAtMs: NOW + 10,
          takenAtMs: NOW + 5,
          transmittedAtMs: NOW + 7,
          readAtMs: NOW + 40,
          failedAtMs: NOW + 60,
          code: 'expired',
          devices: expect.arrayContaining(DEVICES),
        };
        expect(await get(record)).toEqual(merged);
        expect((await get(record))?.devices).toHaveLength(3);
        await reopen();
        expect(await get(record)).toEqual(merged);
        expect((await get(record))?.devices).toHaveLength(3);
      });

      test('merges several of one message in one call, and calls on their way at once', async () => {
        const record = newRecord(NOW);
        await store().accept([record]);
        await Promise.all([
          store().update([
            updateOf(record, { deviceId: DEVICES[0], deliveredAtMs: NOW + 2 }),
            updateOf(record, { deviceId: DEVICES[1], deliveredAtMs: NOW + 1 }),
          ]),
          store().update([updateOf(record, { deviceId: DEVICES[2], readAtMs: NOW + 3 })]),
        ]);
        expect(await get(record)).toMatchObject({ deliveredAtMs: NOW + 1, readAtMs: NOW + 3 });
        expect(new Set((await get(record))?.devices)).toEqual(new Set(DEVICES));
      });

      test('writes its base where there is no record, and ignores a message that has neither', async () => {
        const [known, unknown] = [newRecord(NOW), newRecord(NOW)];
        await store().update([
          updateOf(known, { base: () => known, failedAtMs: NOW + 1, code: 'unstorable' }),
          updateOf(unknown, { deliveredAtMs: NOW + 1 }),
        ]);
        expect(await get(known)).toEqual({ ...known, failedAtMs: NOW + 1, code: 'unstorable' });
        expect(await get(unknown)).toBeUndefined();
      });

      test('leaves the record that there is, whatever its base says', async () => {
        const record = newRecord(NOW);
        await store().accept([record]);
        const base = { ...record, position: '0000000000fff', acceptedAtMs: NOW + 1 };
        await store().update([updateOf(record, { base: () => base, deliveredAtMs: NOW + 2 })]);
        expect(await get(record)).toEqual({ ...record, deliveredAtMs: NOW + 2 });
      });
    });

    test('what had resolved before a kill -9 has happened', async () => {
      const below = numbers(newSeed('kills while writing records'));
      const told = new Map<string, number>();
      await opened.close();
      for (let round = 0; round < KILLS; round++) {
        const lines = await runUntilKilled(
          './status-store-victim.js',
          engine,
          place.location,
          'work',
          String(below(1_000_000)),
        );
        for (const line of lines) {
          const [id, devices] = line.split(' ') as [string, string];
          told.set(id, Math.max(told.get(id) ?? 0, Number(devices)));
        }
      }
      opened = await engine.open(place.location);
      const found = (await store().get([...told.keys()])).map(plain);
      for (const [i, [id, devices]] of [...told].entries()) {
        if ((found[i]?.devices.length ?? -1) < devices) throw new Error(`${id} is ${found[i] ? 'behind' : 'lost'}`);
      }
    });
  });
}

/** What {@link StatusStore.expire} promises, on an engine whose records do not expire by themselves. */
export function statusStoreExpiryContract(name: string, engine: Engine<StatusStore>): void {
  describe(`StatusStore on ${name}: expiry`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<StatusStore>;
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

    const get = async (record: StatusRecord) => plain((await store().get([record.serverMessageId]))[0]);
    const expire = async (beforeMs: number) => {
      while (await store().expire(beforeMs));
    };

    test('drops what was accepted before, step by step, and keeps what was not', async () => {
      const of = (atMs: number) => Array.from({ length: 200 }, (_, n) => newRecord(atMs + n));
      const [old, recent] = [[...of(NOW - 50_000), ...of(NOW - 40_000)], of(NOW)];
      for (const record of old) await store().accept([record]);
      for (const record of recent) await store().accept([record]);
      await expire(NOW - 100_000);
      expect((await store().get(old.map((record) => record.serverMessageId))).map(plain)).toEqual(old);
      await expire(NOW);
      const check = async () => {
        expect((await store().get(old.map((record) => record.serverMessageId))).filter(Boolean)).toEqual([]);
        expect((await store().get(recent.map((record) => record.serverMessageId))).map(plain)).toEqual(recent);
      };
      await check();
      await reopen();
      await check();
    });

    test('drops an old record that was updated since, and a dropped one may be accepted anew', async () => {
      const [old, recent] = [newRecord(NOW - 5000), newRecord(NOW)];
      await store().accept([old]);
      await store().accept([recent]);
      await store().update([updateOf(old, { deliveredAtMs: NOW + 1, deviceId: DEVICES[0] })]);
      await expire(NOW - 1000);
      await expire(NOW + 1);
      expect(await get(old)).toBeUndefined();
      expect(await get(recent)).toBeUndefined();
      await store().accept([{ ...old, acceptedAtMs: NOW + 2 }]);
      expect(await get(old)).toEqual({ ...old, acceptedAtMs: NOW + 2 });
    });

    test('of an empty store is nothing to do', async () => {
      expect(await store().expire(NOW)).toBe(false);
    });
  });
}
