import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Pulsar } from '#engines';
import { Drill, received, report, texts } from '../drill.js';
import { TestMesh } from '../mesh.js';
import { operator } from '../operator.js';
import { logAndStoresEnv, migrate } from './engines-env.js';

/** The drill of docs/operations.md, "Restore", with a Pulsar that is lost whole and an empty one in its place. */
const place = mkdtempSync(join(tmpdir(), 'chatmesh-lost-log-'));
const pulsar = new Pulsar({ directory: join(place, 'pulsar') });
const PARTITIONS = 2;
const LOST = { PULSAR_EPOCH: '1' };
let mesh: TestMesh;

beforeAll(() => pulsar.start(), 300_000);
afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]();
  await pulsar.kill();
  rmSync(place, { recursive: true, force: true });
});

/** Where a message stands in its recipient's stream. */
async function positionOf(serverId: string): Promise<string> {
  const { json } = await operator({ CHAT_ADDRESSES: mesh.chatAddress }, 'status', serverId, '--explain', '--json');
  return (json[0] as { position: string }).position;
}

/** Has Pulsar give its next ledgers higher numbers, as months of use do. */
async function age(): Promise<void> {
  const admin = `${pulsar.env.PULSAR_ADMIN_URL}/admin/v2`;
  for (let n = 0; n < 20; n++) {
    const topic = `${admin}/persistent/public/default/aged-${n}`;
    for (const [method, path] of [
      ['PUT', topic],
      ['PUT', `${topic}/subscription/any`],
    ] as const) {
      const { status } = await fetch(path, { method });
      expect(status).toBe(204);
    }
  }
}

test('with an empty log in place of a lost one, what inboxes hold comes first, and what only the log had is gone', async () => {
  await age();
  const env = { ...logAndStoresEnv(`lost_${randomBytes(4).toString('hex')}`, PARTITIONS), ...pulsar.env };
  migrate(env);
  mesh = await TestMesh.start({ env });
  const whole = mesh.process('chat');
  const drill = await Drill.begin(mesh);
  const { early, waiting } = await drill.open();
  expect(await whole.end('SIGTERM')).toBe(0);
  await whole.start();
  // What waited comes again, and is confirmed by nobody either.
  const late = await drill.look(40, () => drill.send(texts(41, 60)));
  await whole.end('SIGKILL');
  const before = [...early, ...waiting, ...late];

  await pulsar.kill();
  rmSync(pulsar.directory, { recursive: true });
  await pulsar.start();
  migrate({ ...env, ...LOST });
  await whole.start(LOST);

  const after = await drill.send(texts(61, 80));
  const got = await drill.receive(40);
  const come = new Set(got.map(({ text }) => text));
  const survived = late.filter(({ text }) => come.has(text));
  report('confirmed before the loss, sent again', got, texts(1, 20));
  report('in the inbox before the loss, come', got, texts(21, 40));
  report('on the log alone, come', got, texts(41, 60));
  report('accepted by the new log, come', got, texts(61, 80));
  expect(got).toEqual(received([...waiting, ...survived, ...after]));
  const [old, fresh] = [await positionOf(waiting[0]?.serverId ?? ''), await positionOf(after[0]?.serverId ?? '')];
  expect(fresh > old).toBe(true);
  expect(fresh.slice(2) < old.slice(2)).toBe(true);

  await drill.expectKnown(before);
  const lost = late.filter((sent) => !survived.includes(sent)).map(({ text }) => text);
  const renewed = await drill.send(lost);
  expect(await drill.receive(lost.length)).toEqual(received(renewed));
}, 600_000);
