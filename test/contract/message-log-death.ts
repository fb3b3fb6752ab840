import type { LogRecord, MessageLog } from '@chatmesh/chat';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { repeats } from '../long.js';
import { type Engine, newSeed, numbers, type Opened, runUntilKilled, until } from './engine.js';
import { eventFor, idOf, newKeys } from './message-log-witness.js';

const ROUNDS = repeats(3, 10);

/** What survives `kill -9` of the process that has the log open. */
export function messageLogDeathContract(name: string, engine: Engine<MessageLog>): void {
  describe(`the MessageLog on ${name} after a kill -9`, () => {
    let place: Awaited<ReturnType<typeof engine.place>>;
    let opened: Opened<MessageLog> | undefined;

    beforeEach(async () => {
      place = await engine.place();
    });

    afterEach(async () => {
      await opened?.close();
      opened = undefined;
      await place.remove();
    });

    /** Everything that the log hands out, until an event that was published last has come. */
    async function everything(keys: readonly string[]): Promise<LogRecord[]> {
      opened = await engine.open(place.location);
      const last = new Set<string>();
      const added = new Set<string>();
      const records: LogRecord[] = [];
      await opened.store.consume(
        (batch) => {
          records.push(...batch);
          for (const { event } of batch) last.delete(idOf(event));
        },
        { maxUnacknowledged: 100_000 },
      );
      const events = keys.map((key) => eventFor(key));
      for (const event of events) {
        last.add(idOf(event));
        added.add(idOf(event));
      }
      await opened.store.publish(events);
      await until(() => last.size === 0, 'the last events have come');
      return records.filter(({ event }) => !added.has(idOf(event)));
    }

    test(`what publish had resolved for is handed out, in order and marked as a possible repeat (${ROUNDS} kills)`, async () => {
      const seed = newSeed('kills while publishing');
      const below = numbers(seed);
      const keys = newKeys(5);
      const durable: string[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        const job = ['publish', String(below(1_000_000)), ...keys];
        durable.push(...(await runUntilKilled('./message-log-victim.js', engine, place.location, ...job)));
      }
      const records = await everything(keys);
      expect(records.every((record) => record.mayRepeat)).toBe(true);
      const handedOut = records.map(({ event }) => `${event.userId} ${idOf(event)}`);
      expect(new Set(handedOut).size).toBe(handedOut.length);
      for (const key of keys) {
        const ofKey = (line: string) => line.startsWith(key);
        const told = new Set(durable.filter(ofKey));
        // What was on its way at a kill may have become durable untold.
        expect(handedOut.filter((line) => told.has(line)).length).toBe(told.size);
        const positions = records.filter(({ event }) => event.userId === key).map((record) => record.position);
        expect(positions).toEqual([...positions].sort());
      }
    });

    test.each([
      ['a second before', 'acknowledge'],
      ['before a flush', 'flush'],
    ])('what was acknowledged %s is not handed out again, the rest is', async (_when, jobName) => {
      const keys = newKeys(5);
      opened = await engine.open(place.location);
      const ids: string[] = [];
      for (let n = 0; n < 40; n++) {
        const events = keys.map((key) => eventFor(key));
        await opened.store.publish(events);
        ids.push(...events.map(idOf));
      }
      await opened.close();
      const job = [jobName, String(ids.length)];
      const handled = await runUntilKilled('./message-log-victim.js', engine, place.location, ...job);
      expect(handled).toHaveLength(ids.length / 2);
      const gone = new Set(handled.map((line) => line.split(' ')[1] as string));
      const rest = await everything(keys);
      expect(new Set(rest.map(({ event }) => idOf(event)))).toEqual(new Set(ids.filter((id) => !gone.has(id))));
      expect(rest).toHaveLength(ids.length / 2);
    });
  });
}
