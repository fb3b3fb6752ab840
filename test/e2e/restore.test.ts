import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

/** The drill of docs/operations.md, "Restore": prints what the document shows. */
let mesh: TestMesh;
const backup = mkdtempSync(join(tmpdir(), 'chatmesh-backup-'));

beforeAll(async () => {
  mesh = await TestMesh.start();
}, 400_000);
afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]();
  rmSync(backup, { recursive: true, force: true });
});

/** What was sent, in order, by the text. */
interface Sent {
  readonly text: string;
  readonly clientId: string;
  readonly serverId: string;
}

test('a restored DATA_DIR repeats what was confirmed since, under its id, and reorders nothing', async () => {
  const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  const whole = mesh.process('chat');
  const sendAll = async (texts: readonly string[], again: readonly Sent[] = []) => {
    const a = await WireClient.connect(mesh.url, ada);
    const ids = texts.map((text) => a.message(bob, text, again.find((sent) => sent.text === text)?.clientId));
    const answers = [];
    for (const id of ids) answers.push(await a.answer(id));
    await a.close();
    return answers.map(
      ({ client_message_id, server_message_id, deduplicated = false }, i) =>
        ({
          text: texts[i] as string,
          clientId: client_message_id,
          serverId: server_message_id,
          deduplicated,
        }) satisfies Sent & { deduplicated: boolean },
    );
  };
  /** What Bob is sent until he is caught up and has `count`, which he confirms; in order. */
  const receive = async (count: number) => {
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.caught_up, 'caught_up');
    await until(() => b.messages.length >= count, { what: `${count} messages` });
    const got = b.messages.map((m) => ({ text: m.content as string, serverId: m.server_message_id as string }));
    if (got.length > 0) b.confirm('delivered', ...got.map(({ serverId }) => serverId));
    // Durable when a later message of the same session has been answered.
    await b.answer(b.message(ada, 'I have them'));
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    await b.close();
    return got;
  };
  const named = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => `m${from + i}`);
  const summary = (what: string, texts: readonly string[]) =>
    console.log(`${what}: ${texts.length === 0 ? 'nothing' : `${texts.length} (${texts[0]} to ${texts.at(-1)})`}`);

  const early = await sendAll(named(1, 20));
  expect(await receive(20)).toHaveLength(20);
  const waiting = await sendAll(named(21, 40));

  expect(await whole.end('SIGTERM')).toBe(0);
  cpSync(mesh.dataDir, backup, { recursive: true });
  await whole.start();

  expect(await receive(20)).toHaveLength(20);
  const late = await sendAll(named(41, 60));
  expect(await receive(20)).toHaveLength(20);
  const lost = await sendAll(named(61, 70));
  await whole.end('SIGKILL');
  rmSync(mesh.dataDir, { recursive: true });
  cpSync(backup, mesh.dataDir, { recursive: true });
  await whole.start();

  const repeated = await receive(20);
  summary(
    'confirmed before the backup, sent again',
    repeated.map((m) => m.text).filter((t) => named(1, 20).includes(t)),
  );
  summary(
    'confirmed after the backup, sent again',
    repeated.map((m) => m.text).filter((t) => named(21, 40).includes(t)),
  );
  summary(
    'accepted after the backup, come by themselves',
    repeated.map((m) => m.text).filter((t) => named(41, 70).includes(t)),
  );
  expect(repeated).toEqual(waiting.map(({ text, serverId }) => ({ text, serverId })));

  const again = await sendAll(named(1, 70), [...early, ...waiting, ...late, ...lost]);
  summary(
    'sent again by Ada, known',
    again.filter((m) => m.deduplicated).map((m) => m.text),
  );
  summary(
    'sent again by Ada, taken as new',
    again.filter((m) => !m.deduplicated).map((m) => m.text),
  );
  expect(again.map((m) => m.serverId)).toEqual([...early, ...waiting, ...late, ...lost].map((m) => m.serverId));
  expect(again.filter((m) => m.deduplicated).map((m) => m.text)).toEqual(named(1, 40));
  const fresh = await receive(30);
  summary(
    'of these delivered, in order',
    fresh.map((m) => m.text),
  );
  expect(fresh).toEqual([...late, ...lost].map(({ text, serverId }) => ({ text, serverId })));
  expect(await receive(0)).toEqual([]);
}, 400_000);
