import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serverMessageId } from '@chatmesh/chat/domain/ids';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DamagedRouter } from '../damage-router.js';
import { messages, type Sent, textOf, userOf } from '../damage-world.js';
import { until } from '../mesh.js';

/** What fifty damages of any kind cost is in test/system/damage.test.ts. */
describe('what is damaged', () => {
  const sent = messages('single', 1);
  const victim = sent.find(({ clientMessageId }) => textOf(clientMessageId).length > 100) as Sent;
  const id = serverMessageId(userOf(victim.from), victim.clientMessageId);
  let dataDir: string;

  beforeEach(() => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-damaged-'));
  });
  afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

  /** Flips a bit behind each place of a text in the data file. */
  function flip(text: string | Buffer, offset: number): void {
    const file = join(dataDir, 'chat', 'data.mdb');
    const bytes = readFileSync(file);
    for (let at = bytes.indexOf(text); at >= 0; at = bytes.indexOf(text, at + 1))
      bytes[at + offset] = (bytes[at + offset] as number) ^ 1;
    writeFileSync(file, bytes);
  }

  test('of a waiting message costs that message: its sender is told that it failed, and an operator finds it', async () => {
    {
      await using router = await DamagedRouter.start(dataDir);
      await router.send(sent);
      await router.leftOnLog(0);
    }
    flip(textOf(victim.clientMessageId).subarray(0, 60), 20);
    await using router = await DamagedRouter.start(dataDir);
    await router.drain(true);
    await until(() => router.failed.has(id), { what: 'the sender to be told' });
    const got = new Set(router.delivered.map(({ clientMessageId }) => clientMessageId));
    expect(sent.filter(({ clientMessageId }) => !got.has(clientMessageId))).toEqual([victim]);
    expect(router.delivered.every(({ sound }) => sound)).toBe(true);
    expect([...router.failed]).toEqual([id]);
    await until(async () => (await router.deadLetters()).length > 0, { what: 'a dead letter' });
    expect(await router.deadLetters()).toEqual([expect.stringContaining(`message ${id}, is damaged`)]);
    expect(await router.damagedRows()).toBeGreaterThan(0);
  });

  test('of a status record is neither answered with something else nor accepted once more', async () => {
    let acceptedAtMs: number[];
    {
      await using router = await DamagedRouter.start(dataDir);
      await router.drain(true);
      acceptedAtMs = (await router.send(sent)).map((answer) => answer.acceptedAtMs);
      await router.leftOnLog(0);
    }
    flip(`${id}\t`, 60);
    await using router = await DamagedRouter.start(dataDir);
    const answers = await router.send(sent);
    const refused = answers.filter(({ refusal }) => refusal !== '');
    expect(new Set(refused.map(({ refusal }) => refusal))).toEqual(new Set(['internal']));
    expect(refused.map(({ clientMessageId }) => clientMessageId)).toContain(victim.clientMessageId);
    // Eight rows share a checksum.
    expect(refused.length).toBeLessThanOrEqual(8);
    for (const [i, answer] of answers.entries())
      if (answer.refusal === '') expect(answer).toMatchObject({ deduplicated: true, acceptedAtMs: acceptedAtMs[i] });
    await router.drain(true);
    expect(router.delivered).toEqual([]);
  });
});
