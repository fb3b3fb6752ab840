import { randomUUID } from 'node:crypto';
import { ChatService, migrateLog, readConfig } from '@chatmesh/chat';
import { createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { PulsarAdmin } from '@chatmesh/mesh/pulsar';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { until } from '../contract/engine.js';
import { CuttableWire } from '../cuttable-wire.js';
import { failure } from './failure.js';

const adminUrl = process.env.PULSAR_ADMIN_URL ?? '';
const admin = new PulsarAdmin({ url: adminUrl, token: undefined });

describe('a router and Pulsar', () => {
  let namespace: string;
  let wire: CuttableWire;
  let lines: { msg: string }[];
  let service: ChatService | undefined;

  beforeEach(async () => {
    namespace = `chatmesh/trouble-${randomUUID()}`;
    wire = await CuttableWire.to(Number(new URL(process.env.PULSAR_URL ?? '').port));
    lines = [];
  });
  afterEach(async () => {
    await service?.[Symbol.asyncDispose]();
    service = undefined;
    await wire[Symbol.asyncDispose]();
  });

  function configOf(more: Record<string, string> = {}) {
    const env = new EnvReader({
      PULSAR_URL: `pulsar://127.0.0.1:${wire.port}`,
      PULSAR_ADMIN_URL: adminUrl,
      PULSAR_NAMESPACE: namespace,
      PULSAR_PARTITIONS: '2',
      CHAT_FINGERPRINT_KEY: '00'.repeat(32),
      CHAT_PORT: '0',
      ...more,
    });
    const config = readConfig(env);
    env.finish();
    return config;
  }

  async function create(): Promise<ChatService> {
    const logger = createLogger({
      name: 'test',
      destination: { write: (line) => void lines.push(JSON.parse(line)) },
    });
    const none = {} as never;
    const deps = { logger, metrics: new Metrics({ processMetrics: false }) };
    service = await ChatService.create(configOf(), deps, { inbox: none, statuses: none });
    return service;
  }

  const migrate = (partitions: string) => {
    const { pulsar } = configOf({ PULSAR_PARTITIONS: partitions });
    if (!pulsar) throw new Error('no Pulsar is configured');
    return migrateLog(pulsar);
  };

  test('that is away at the start: it says so, is not ready, and starts when Pulsar is there', async () => {
    await migrate('2');
    wire.refuse();
    const router = await create();
    const started = router.start();
    await until(() => lines.some(({ msg }) => msg.startsWith('Pulsar does not answer yet')), 'it said so', 60_000);
    expect(router.ready).toBe(false);
    wire.mend();
    await started;
    expect(router.ready).toBe(true);
  });

  test.each(['not even the namespace', 'the namespace alone'])(
    'that has %s: one sentence says what to run',
    async (has) => {
      if (has === 'the namespace alone')
        await admin.prepareNamespace(namespace, { backlogBytes: 1024 ** 3, retentionHours: 0 });
      const error = await failure((await create()).start());
      expect(error.kind).toBe('failed_precondition');
      expect(error.message).toMatch(/is not prepared: run npx chatmesh migrate$/);
    },
  );

  test('whose topic has another number of partitions: the migration says which, and changes nothing', async () => {
    expect(await migrate('2')).toMatch(/with 2 partitions$/);
    expect(await migrate('2')).toMatch(/with 2 partitions$/);
    const error = await failure(migrate('3'));
    expect(error.kind).toBe('failed_precondition');
    expect(error.message).toMatch(/has 2 partitions and keeps them: set PULSAR_PARTITIONS=2$/);
  });
});
