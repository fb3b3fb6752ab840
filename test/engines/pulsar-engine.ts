import { randomUUID } from 'node:crypto';
import { PulsarMessageLog } from '@chatmesh/chat';
import { createLogger } from '@chatmesh/mesh';
import { PulsarAdmin, PulsarClient } from '@chatmesh/mesh/pulsar';
import type { LogEngine } from '../contract/message-log-witness.js';

/** So many that each of three consumers gets some. */
const PARTITIONS = 24;
const NAMESPACE = 'chatmesh/contract';
const logger = createLogger({ name: 'test', level: process.env.LOG_LEVEL ?? 'silent' });

/** Where the tests' Pulsar is. */
export const pulsarUrl = process.env.PULSAR_URL ?? '';
const admin = () => new PulsarAdmin({ url: process.env.PULSAR_ADMIN_URL ?? '', token: undefined });

/** The log on a topic of its own. */
export const pulsarMessageLog: LogEngine = {
  module: import.meta.url,
  exported: 'pulsarMessageLog',
  tellsNewAtOnce: false,
  async open(topic, now = Date.now) {
    const client = await PulsarClient.create({ serviceUrl: pulsarUrl, logger });
    const store = await PulsarMessageLog.open(client, { topic, epoch: 0, admin: admin(), now, logger });
    return {
      store,
      async close() {
        await store[Symbol.asyncDispose]();
        await client.close();
      },
    };
  },
  async place() {
    const topic = `persistent://${NAMESPACE}/log-${randomUUID()}`;
    await admin().prepareNamespace(NAMESPACE, { backlogBytes: 1024 ** 3, retentionHours: 0 });
    await admin().prepareTopic(topic, { partitions: PARTITIONS, subscription: 'routers' });
    return { location: topic, remove: () => admin().deleteTopic(topic) };
  },
};
