// A program that writes status records until it kills itself, saying on stdout what has become durable: "ID DEVICES", how
// many devices at least have confirmed; or, asked for "second", "ID" when a repeated acceptance of it has resolved.
import { randomUUID } from 'node:crypto';
import { writeSync } from 'node:fs';
import type { StatusStore } from '@chatmesh/chat';
import { numbers, openFromArguments } from './engine.js';
import { newRecord, updateOf } from './status-store-model.js';

const { store, args } = await openFromArguments<StatusStore>();
const [job = '', seed = ''] = args;
const below = numbers(Number(seed));
const die = () => process.kill(process.pid, 'SIGKILL');
let left = 1 + below(60);

async function work(): Promise<void> {
  for (;;) {
    const records = Array.from({ length: 1 + below(10) }, () => newRecord(Date.now()));
    await store.accept(records);
    writeSync(1, records.map((record) => `${record.serverMessageId} 0\n`).join(''));
    for (let devices = 1; devices <= below(4); devices++) {
      await store.update(records.map((record) => updateOf(record, { deviceId: randomUUID() })));
      writeSync(1, records.map((record) => `${record.serverMessageId} ${devices}\n`).join(''));
    }
    if (--left <= 0) die();
  }
}

/** The first acceptance is still on its way to the disk when the second is asked for. */
async function second(): Promise<void> {
  for (let n = below(20); n >= 0; n--) {
    const record = newRecord(Date.now());
    const first = store.accept([record]);
    await store.accept([record]);
    writeSync(1, `${record.serverMessageId}\n`);
    if (n === 0) die();
    await first;
  }
}

await (job === 'work' ? Promise.all([work(), work(), work()]) : second());
