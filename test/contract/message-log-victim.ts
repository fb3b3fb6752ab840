// A program that publishes until it kills itself, saying on stdout what has become durable: "KEY ID" for each event.
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LogRecord, MessageLog } from '@chatmesh/chat';
import { numbers, openFromArguments } from './engine.js';
import { eventFor, idOf } from './message-log-witness.js';

const die = () => process.kill(process.pid, 'SIGKILL');

/** Publishes in random batches, several on their way at a time, and dies right after a random one of them has resolved. */
async function publish(log: MessageLog, seed: number, keys: string[]): Promise<void> {
  const below = numbers(seed);
  let left = 1 + below(60);
  const one = async () => {
    const events = Array.from({ length: 1 + below(20) }, () => eventFor(keys[below(keys.length)] as string));
    await log.publish(events);
    writeSync(1, events.map((event) => `${event.userId} ${idOf(event)}\n`).join(''));
    if (--left === 0) die();
  };
  const many = async () => {
    for (;;) await one();
  };
  await Promise.all([many(), many(), many(), many()]);
}

/** Acknowledges every second event that it is handed, says which, and dies when they were flushed or a second later. */
async function acknowledge(log: MessageLog, count: number, flush: boolean): Promise<void> {
  const records: LogRecord[] = [];
  const consumer = await log.consume((batch) => void records.push(...batch), { maxUnacknowledged: 10_000 });
  while (records.length < count) await sleep(2);
  const handled = records.filter((_, index) => index % 2 === 0);
  consumer.acknowledge(handled);
  if (flush) await consumer.flushed();
  writeSync(1, handled.map(({ event }) => `${event.userId} ${idOf(event)}\n`).join(''));
  if (!flush) await sleep(1000);
  die();
}

const { store, args } = await openFromArguments<MessageLog>();
const [job = '', number = '', ...keys] = args;
await (job === 'publish' ? publish(store, Number(number), keys) : acknowledge(store, Number(number), job === 'flush'));
