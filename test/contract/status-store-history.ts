import { randomUUID } from 'node:crypto';
import type { StatusRecord, StatusStore, StatusUpdate } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { repeats } from '../long.js';
import { type Engine, newSeed, numbers, type Opened } from './engine.js';
import { newRecord, plain, StatusModel, updateOf } from './status-store-model.js';

/** A record in one spelling: its devices are a set. */
const normal = (record: StatusRecord | undefined) => record && { ...record, devices: [...record.devices].sort() };

const NOW = Date.UTC(2026, 2, 1, 9, 30);
/** Of 1,000 records each. */
const ROUNDS = repeats(30, 100);
const DEVICES = Array.from({ length: 3 }, () => randomUUID());

/** Many records and random histories against the {@link StatusModel}. */
export function statusStoreHistoryContract(name: string, engine: Engine<StatusStore>): void {
  describe(`the StatusStore on ${name} in any history`, () => {
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

    /** What the store has of these records. */
    async function records(of: readonly StatusRecord[]): Promise<(StatusRecord | undefined)[]> {
      return (await store().get(of.map((record) => record.serverMessageId))).map(plain).map(normal);
    }

    /** As toEqual, which takes seconds for so many records. */
    function expectSame(found: (StatusRecord | undefined)[], expected: readonly StatusRecord[]): void {
      const wanted = expected.map(plain).map(normal);
      if (JSON.stringify(found) !== JSON.stringify(wanted)) expect(found).toEqual(wanted);
    }

    test(`${1000 * ROUNDS} records with updates of new and old ones in between, reopened in the middle, are what the model says`, async () => {
      const below = numbers(newSeed('many records'));
      const model = new StatusModel();
      for (let round = 0; round < ROUNDS; round++) {
        if (round === Math.floor(ROUNDS / 2) || round === Math.floor(ROUNDS * 0.77)) await reopen();
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
            takenAtMs: below(2) * (NOW + below(10_000_000)),
            transmittedAtMs: below(2) * (NOW + below(10_000_000)),
            readAtMs: below(2) * (NOW + below(10_000_000)),
          });
        });
        await Promise.all(writes);
        model.update(updates);
        await store().update(updates);
        const sample = Array.from({ length: 50 }, () => model.nth(below(model.size)));
        expectSame(await records(sample), sample);
      }
      const everything = async () => {
        for (let at = 0; at < model.size; at += 1000) {
          const expected = Array.from({ length: Math.min(1000, model.size - at) }, (_, i) => model.nth(at + i));
          expectSame(await records(expected), expected);
        }
      };
      await everything();
      await reopen();
      await everything();
    }, 400_000);

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
            takenAtMs: time,
            transmittedAtMs: time,
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
              const update = updateOf(subject, { ...known, code, base: base ? () => subject : undefined });
              model.update([update]);
              writes.push(store().update([update]));
            }
          }
          await settle();
        }),
        { seed, numRuns: 100 },
      );
    }, 400_000);
  });
}
