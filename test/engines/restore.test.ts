import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrateLog, readConfig } from '@chatmesh/chat';
import { migrateStores } from '@chatmesh/chat/scylla';
import { EnvReader } from '@chatmesh/mesh';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { Cassandra } from '#engines';
import { Drill, received, report, texts } from '../drill.js';
import { TestMesh } from '../mesh.js';

/** The drill of docs/operations.md, "Restore", with inboxes and status records alone: the log and the users go on. */
const place = mkdtempSync(join(tmpdir(), 'chatmesh-restore-'));
const engine = new Cassandra({ directory: join(place, 'cassandra') });
const START_MS = 300_000;
const PARTITIONS = 2;
let mesh: TestMesh;

beforeAll(() => engine.start(), START_MS);
afterEach(() => mesh?.[Symbol.asyncDispose]());
afterAll(async () => {
  await engine.kill();
  rmSync(place, { recursive: true, force: true });
});

async function startMesh(keyspace: string, more: Record<string, string> = {}): Promise<void> {
  const env = {
    ...engine.env,
    SCYLLA_KEYSPACE: keyspace,
    SCYLLA_REPLICATION_FACTOR: '1',
    CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
    ...more,
  };
  const { scylla, pulsar } = readConfig(new EnvReader(env));
  if (scylla) await migrateStores(scylla);
  if (pulsar) await migrateLog(pulsar);
  mesh = await TestMesh.start({ env });
}

/** Has m1 to m20 confirmed before the backup and m21 to m40 after it; m41 to m60 come after it. Then the backup is put back. */
async function restored(prepareLog: (backedUpAtMs: number) => Promise<void>) {
  const whole = mesh.process('chat');
  const backup = join(place, 'backup');
  const drill = await Drill.begin(mesh);
  const { early, waiting } = await drill.open();

  expect(await whole.end('SIGTERM')).toBe(0);
  const backedUpAtMs = Date.now();
  await engine.stop();
  rmSync(backup, { recursive: true, force: true });
  cpSync(engine.directory, backup, { recursive: true });
  await engine.start();
  await whole.start();

  expect(await drill.receive(20)).toEqual(received(waiting));
  const late = await drill.send(texts(41, 60));
  expect(await whole.end('SIGTERM')).toBe(0);
  await engine.kill();
  rmSync(engine.directory, { recursive: true });
  cpSync(backup, engine.directory, { recursive: true });
  await engine.start();
  await prepareLog(backedUpAtMs);
  await whole.start();
  return { drill, early, waiting, late };
}

function reportRepeated(repeated: Awaited<ReturnType<Drill['receive']>>): void {
  report('confirmed before the backup, sent again', repeated, texts(1, 20));
  report('confirmed after the backup, sent again', repeated, texts(21, 40));
  report('accepted after the backup, come by themselves', repeated, texts(41, 60));
}

test('restored inboxes repeat what was confirmed since, lack what came since, and reorder nothing', async () => {
  await startMesh('restored_alone');
  const { drill, early, waiting, late } = await restored(async () => {});
  const repeated = await drill.receive(20);
  reportRepeated(repeated);
  expect(repeated).toEqual(received(waiting));

  const before = [...early, ...waiting, ...late];
  const again = await drill.send(texts(1, 60), before);
  const [known, taken] = [again.filter((m) => m.known), again.filter((m) => !m.known)];
  report('sent again by Ada, known', known);
  report('sent again by Ada, taken as new', taken);
  expect(received(again)).toEqual(received(before));
  expect(received(known)).toEqual(received([...early, ...waiting]));
  const fresh = await drill.receive(20);
  report('of these delivered, in order', fresh);
  expect(fresh).toEqual(received(late));
  expect(await drill.receive(0)).toEqual([]);
}, 600_000);

test('with a log that kept everything since and is read again, nothing is lacking, and every repeat is known', async () => {
  const { PULSAR_URL = '', PULSAR_ADMIN_URL = '' } = process.env;
  const namespace = `chatmesh/restore-${randomBytes(4).toString('hex')}`;
  await startMesh('restored_with_log', {
    PULSAR_URL,
    PULSAR_ADMIN_URL,
    PULSAR_NAMESPACE: namespace,
    PULSAR_PARTITIONS: String(PARTITIONS),
    PULSAR_RETENTION_HOURS: '1',
  });
  const ask = async (path: string, body: unknown) => {
    const response = await fetch(`${PULSAR_ADMIN_URL}/admin/v2/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    expect([path, response.status]).toEqual([path, 204]);
  };
  const { drill, early, waiting, late } = await restored(async (backedUpAtMs) => {
    for (let n = 0; n < PARTITIONS; n++) {
      const partition = `${namespace}/events-partition-${n}`;
      await ask(`persistent/${partition}/subscription/routers/resetcursor/${backedUpAtMs}`, {});
    }
  });
  const repeated = await drill.receive(40);
  reportRepeated(repeated);
  expect(repeated).toEqual(received([...waiting, ...late]));
  const before = [...early, ...waiting, ...late];
  await drill.expectKnown(before);
}, 600_000);
