import { randomUUID } from 'node:crypto';
import { type LogConsumer, type LogRecord, PulsarMessageLog } from '@chatmesh/chat';
import { receiptOf } from '@chatmesh/chat/domain/events';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { createLogger } from '@chatmesh/mesh';
import { PulsarAdmin, PulsarClient } from '@chatmesh/mesh/pulsar';
import { expect, test } from '@jest/globals';
import { until } from '../contract/engine.js';
import { pulsarMessageLog, pulsarUrl } from './pulsar-engine.js';

const MAX_BYTES = 200 * 1024;
const logger = createLogger({ name: 'test', level: 'silent' });

test('a log in which too much waits takes no messages until it is emptied, and takes everything else', async () => {
  const place = await pulsarMessageLog.place();
  const client = await PulsarClient.create({ serviceUrl: pulsarUrl, logger });
  const admin = new PulsarAdmin({ url: process.env.PULSAR_ADMIN_URL ?? '', token: undefined });
  const backlog = { maxBytes: MAX_BYTES, pollMs: 200 };
  const topic = place.location;
  const log = await PulsarMessageLog.open(client, { topic, epoch: 0, admin, backlog, now: Date.now, logger });
  try {
    const senderId = randomUUID();
    const others = Array.from({ length: 20 }, () => randomUUID());
    const receipt = () => {
      const ids = { serverMessageId: randomUUID(), clientMessageId: randomUUID(), senderId };
      return receiptOf(ids, MessageStatus.FAILED, Date.now(), 'x'.repeat(4_000));
    };
    expect(log.takesMessages(senderId)).toBe(true);
    await log.publish(Array.from({ length: 100 }, receipt));
    await until(() => !log.takesMessages(senderId), 'it takes no more');
    expect(others.some((userId) => log.takesMessages(userId))).toBe(true);
    expect(await log.publish([receipt()])).toHaveLength(1);

    const received = new Set<string>();
    const early: LogRecord[] = [];
    let consumer: LogConsumer | undefined;
    const handle = (records: LogRecord[]) => {
      for (const { position } of records) received.add(position);
      if (consumer) consumer.acknowledge(records);
      else early.push(...records);
    };
    consumer = await log.consume(handle, { maxUnacknowledged: 1_000 });
    consumer.acknowledge(early);
    await until(() => received.size === 101, 'everything came');
    await until(() => log.takesMessages(senderId), 'it takes messages again', 60_000);
    await consumer.close();
  } finally {
    await log[Symbol.asyncDispose]();
    await client.close();
    await place.remove();
  }
});
