import { PulsarMessageLog } from '@chatmesh/chat';
import { createLogger } from '@chatmesh/mesh';
import { PulsarAdmin, PulsarClient } from '@chatmesh/mesh/pulsar';
import { describe, expect, test } from '@jest/globals';
import { messageLogContract } from '../contract/message-log.js';
import { messageLogDeathContract } from '../contract/message-log-death.js';
import { messageLogGroupsContract } from '../contract/message-log-groups.js';
import { messageLogHistoryContract } from '../contract/message-log-history.js';
import { newKeys, Witness } from '../contract/message-log-witness.js';
import { pulsarMessageLog, pulsarUrl } from './pulsar-engine.js';

messageLogContract('Pulsar', pulsarMessageLog);
messageLogGroupsContract('Pulsar', pulsarMessageLog);
messageLogHistoryContract('Pulsar', pulsarMessageLog, 10);
messageLogDeathContract('Pulsar', pulsarMessageLog);

describe('the MessageLog on Pulsar', () => {
  test('partitions that go to a consumer that joins are given back by the one that had them, before its lease ends', async () => {
    const place = await pulsarMessageLog.place();
    const lines: { msg: string }[] = [];
    const logger = createLogger({
      name: 'test',
      level: 'info',
      destination: { write: (line) => void lines.push(JSON.parse(line)) },
    });
    const client = await PulsarClient.create({ serviceUrl: pulsarUrl, logger });
    const admin = new PulsarAdmin({ url: process.env.PULSAR_ADMIN_URL ?? '', token: undefined });
    const log = await PulsarMessageLog.open(client, {
      topic: place.location,
      epoch: 0,
      admin,
      now: Date.now,
      logger,
    });
    const keys = newKeys(64);
    try {
      const witness = new Witness(log, pulsarMessageLog);
      await witness.join();
      await witness.publish(keys);
      await witness.allHandedOut();
      await witness.join();
      await witness.publish(keys);
      await witness.allHandedOut();
      expect(lines.filter(({ msg }) => msg.endsWith('its claim is missing'))).not.toEqual([]);
      await witness.drain();
    } finally {
      await log[Symbol.asyncDispose]();
      await client.close();
      await place.remove();
    }
  });
});
