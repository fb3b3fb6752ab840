import { randomUUID } from 'node:crypto';
import type { StatusRecord, StatusStore, StatusUpdate } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { type Engine, newSeed, numbers, type Opened, runUntilKilled } from './engine.js';
import { newRecord, StatusModel, updateOf } from './status-store-model.js';

/** A record in one spelling: its devices are a set. */
const normal = (record: StatusRecord | undefined) => record && { ...record, devices: [...record.devices].sort() };

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
      return (await store().get([record.serverMessageId]))[0];
    }

    /** What the store has of these records. */
    async function records(of: readonly StatusRecord[]): Promise<(StatusRecord | undefined)[]> {
      return (await store().get(of.map((record) => record.serverMessageId))).map(normal);
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

      test('of two copies at once records one of them', async () => {
        const record = newRecord(NOW);
        const other = { ...record, position: '0000000000100' };
        await Promise.all([store().accept([record]), store().accept([other]), store().accept([other, record])]);
        const kept = await get(record);
        expect([record, other]).toContainEqual(kept);
        await reopen();
        expect(await get(record)).toEqual(kept);
      });

      test('of the same record resolves for nobody before it is durable', async () => {
        const seed = newSeed('kills after a second acceptance');
        const below = numbers(seed);
        const told: string[] = [];
        await opened.close();
        for (let round = 0; round < 10; round++) {
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
        expect(told.length).toBeGreaterThan(9);
        expect(found.filter((record) => record === undefined)).toEqual([]);
      });

      test('does not undo what is known already', async () => {
        const record = newRecord(NOW);
        await store().update([updateOf(record, { base: record, deliveredAtMs: NOW + 1, deviceId: DEVICES[0] })]);
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
        expect(await store().get(ids)).toEqual([b, undefined, a, b]);
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
        expect((await store().get(ids)).map((record) => record?.acceptedAtMs)).toEqual([NOW, NOW + 1, undefined]);
      });
    });

    describe('an update', () => {
      test('merges: the earliest time of each kind stays, with its code, and devices are a set', async () => {
        const record = newRecord(NOW);
        await store().accept([record]);
        const updates = [
          { deliveredAtMs: NOW + 20, deviceId: DEVICES[0] },
          { deliveredAtMs: NOW + 10, deviceId: DEVICES[1] },
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
          updateOf(known, { base: known, failedAtMs: NOW + 1, code: 'unstorable' }),
          updateOf(unknown, { deliveredAtMs: NOW + 1 }),
        ]);
        expect(await get(known)).toEqual({ ...known, failedAtMs: NOW + 1, code: 'unstorable' });
        expect(await get(unknown)).toBeUndefined();
      });

      test('leaves the record that there is, whatever its base says', async () => {
        const record = newRecord(NOW);
        await store().accept([record]);
        const base = { ...record, position: '0000000000fff', acceptedAtMs: NOW + 1 };
        await store().update([updateOf(record, { base, deliveredAtMs: NOW + 2 })]);
        expect(await get(record)).toEqual({ ...record, deliveredAtMs: NOW + 2 });
      });
    });

    test('what had resolved before a kill -9 has happened (10 kills)', async () => {
      const below = numbers(newSeed('kills while writing records'));
      const told = new Map<string, number>();
      await opened.close();
      for (let round = 0; round < 10; round++) {
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
      const found = await store().get([...told.keys()]);
      for (const [i, [id, devices]] of [...told].entries()) {
        if ((found[i]?.devices.length ?? -1) < devices) throw new Error(`${id} is ${found[i] ? 'behind' : 'lost'}`);
      }
    });

    test('100,000 records with updates of new and old ones in between, reopened in the middle, are what the model says', async () => {
      const below = numbers(newSeed('100,000 records'));
      const model = new StatusModel();
      for (let round = 0; round < 100; round++) {
        if (round === 50 || round === 77) await reopen();
        const writes: Promise<void>[] = [];
        for (let n = 0; n < 10; n++) {
          const accepted = Array.from({ length: 100 }, (_, i) => newRecord(NOW + round * 1000 + n * 100 + i));
          model.accept(accepted);
          writes.push(store().accept(accepted));
        }
        const updates: StatusUpdate[] = Array.from({ length: 500 }, () => {
          // Every other one is of the latest 2,000 records.
          const record = below(2) ? model.nth(below(model.size)) : model.nth(Math.max(0, model.size - 1 - below(2000)));
          return updateOf(record, {
            deviceId: DEVICES[below(3)],
            deliveredAtMs: NOW + below(10_000_000),
            readAtMs: below(2) * (NOW + below(10_000_000)),
          });
        });
        await Promise.all(writes);
        model.update(updates);
        await store().update(updates);
        const sample = Array.from({ length: 50 }, () => model.nth(below(model.size)));
        expect(await records(sample)).toEqual(sample.map(normal));
      }
      const everything = async () => {
        for (let at = 0; at < model.size; at += 1000) {
          const expected = Array.from({ length: Math.min(1000, model.size - at) }, (_, i) => model.nth(at + i));
          expect(await records(expected)).toEqual(expected.map(normal));
        }
      };
      await everything();
      await reopen();
      await everything();
    }, 120_000);

    test('any history of acceptances, updates and reopenings is what the model says', async () => {
      const seed = newSeed('history of records');
      const time = fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 50 }));
      const step = fc.oneof(
        {
          weight: 4,
          arbitrary: fc.record({ kind: fc.constant('accept' as const), of: fc.array(fc.nat(7), { maxLength: 5 }) }),
        },
        {
          weight: 8,
          arbitrary: fc.record({
            kind: fc.constant('update' as const),
            of: fc.nat(7),
            base: fc.boolean(),
            deviceId: fc.option(fc.constantFrom(...DEVICES), { nil: undefined }),
            deliveredAtMs: time,
            readAtMs: time,
            failedAtMs: time,
          }),
        },
        { weight: 1, arbitrary: fc.record({ kind: fc.constant('wait' as const) }) },
        { weight: 1, arbitrary: fc.record({ kind: fc.constant('reopen' as const) }) },
      );
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
          const subjects = Array.from({ length: 8 }, (_, n) => newRecord(NOW + n));
          const model = new StatusModel();
          let writes: Promise<void>[] = [];
          let making = new Set<StatusRecord>();
          const settle = async () => {
            await Promise.all(writes);
            writes = [];
            making = new Set();
            const expected = subjects.map((subject) => normal(model.get(subject.serverMessageId)));
            expect(await records(subjects)).toEqual(expected);
          };
          for (const step of steps) {
            if (step.kind === 'wait' || step.kind === 'reopen') {
              await settle();
              if (step.kind === 'reopen') await reopen();
              continue;
            }
            const of = (step.kind === 'accept' ? step.of : [step.of]).map((n) => subjects[n] as StatusRecord);
            // Updates of a record that is there may overtake each other; what makes a record may not.
            if (of.some((subject) => making.has(subject))) await settle();
            for (const subject of of) if (!model.get(subject.serverMessageId)) making.add(subject);
            if (step.kind === 'accept') {
              model.accept(of);
              writes.push(store().accept(of));
            } else {
              const { kind, of: _, base, ...known } = step;
              const subject = of[0] as StatusRecord;
              const code = step.failedAtMs ? `code ${step.failedAtMs}` : '';
              const update = updateOf(subject, { ...known, code, base: base ? subject : undefined });
              model.update([update]);
              writes.push(store().update([update]));
            }
          }
          await settle();
        }),
        { seed, numRuns: 100 },
      );
    }, 120_000);

    describe('expiry', () => {
      const expire = async (beforeMs: number) => {
        while (await store().expire(beforeMs));
      };

      test('drops what was accepted before, step by step, and keeps what was not', async () => {
        const of = (atMs: number) => Array.from({ length: 200 }, (_, n) => newRecord(atMs + n));
        const [old, recent] = [[...of(NOW - 50_000), ...of(NOW - 40_000)], of(NOW)];
        for (const record of old) await store().accept([record]);
        for (const record of recent) await store().accept([record]);
        await expire(NOW - 100_000);
        expect(await store().get(old.map((record) => record.serverMessageId))).toEqual(old);
        await expire(NOW);
        const check = async () => {
          expect((await store().get(old.map((record) => record.serverMessageId))).filter(Boolean)).toEqual([]);
          expect(await store().get(recent.map((record) => record.serverMessageId))).toEqual(recent);
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
  });
}
