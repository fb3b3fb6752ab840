import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Drill, received, report, texts } from '../drill.js';
import { TestMesh } from '../mesh.js';

/** The drill of docs/operations.md, "Restore": prints what the document shows. */
let mesh: TestMesh;
const backup = mkdtempSync(join(tmpdir(), 'chatmesh-backup-'));

beforeAll(async () => {
  mesh = await TestMesh.start();
});
afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]();
  rmSync(backup, { recursive: true, force: true });
});

test('a restored DATA_DIR repeats what was confirmed since, under its id, and reorders nothing', async () => {
  const whole = mesh.process('chat');
  const drill = await Drill.begin(mesh);
  const { early, waiting } = await drill.open();

  expect(await whole.end('SIGTERM')).toBe(0);
  cpSync(mesh.dataDir, backup, { recursive: true });
  await whole.start();

  expect(await drill.receive(20)).toEqual(received(waiting));
  const late = await drill.send(texts(41, 60));
  expect(await drill.receive(20)).toEqual(received(late));
  late.push(...(await drill.send(texts(61, 70))));
  await whole.end('SIGKILL');
  rmSync(mesh.dataDir, { recursive: true });
  cpSync(backup, mesh.dataDir, { recursive: true });
  await whole.start();

  const repeated = await drill.receive(20);
  report('confirmed before the backup, sent again', repeated, texts(1, 20));
  report('confirmed after the backup, sent again', repeated, texts(21, 40));
  report('accepted after the backup, come by themselves', repeated, texts(41, 70));
  expect(repeated).toEqual(received(waiting));

  const before = [...early, ...waiting, ...late];
  const again = await drill.send(texts(1, 70), before);
  const [known, taken] = [again.filter((m) => m.known), again.filter((m) => !m.known)];
  report('sent again by Ada, known', known);
  report('sent again by Ada, taken as new', taken);
  expect(received(again)).toEqual(received(before));
  expect(received(known)).toEqual(received([...early, ...waiting]));
  const fresh = await drill.receive(30);
  report('of these delivered, in order', fresh);
  expect(fresh).toEqual(received(late));
  expect(await drill.receive(0)).toEqual([]);
});
