import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { repeats } from '../long.js';
import { MeshProcess, SERVICES, until } from '../mesh.js';

const ROUNDS = repeats(1, 3);
const PORTS = ['EDGE_PORT', 'EDGE_H2_PORT', 'CHAT_PORT', 'USER_PORT', 'PRESENCE_PORT'];

describe('of meshes that start at once on one directory', () => {
  let dataDir: string;

  beforeAll(() => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-starts-'));
  });
  afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

  test('exactly one runs, and the other names the lock', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const both = await Promise.all(
        [0, 1].map(async () => {
          const [admin, ...ports] = (await freePorts(1 + PORTS.length)) as [number, ...number[]];
          const env = Object.fromEntries(PORTS.map((name, i) => [name, String(ports[i])]));
          return new MeshProcess(SERVICES, admin, { PATH: process.env.PATH, DATA_DIR: dataDir, ...env });
        }),
      );
      for (const each of both) each.launch();
      const ended = both.map((each) => each.exited().then(() => each));
      const refused = await Promise.race(ended);
      expect(refused.output).toMatch(/chatmesh cannot start: \S+\/lock\/\S+ is held by process \d+/);
      const running = both.find((each) => each !== refused) as MeshProcess;
      await until(() => running.output.includes('"msg":"ready"'), {
        what: () => `the other; it says:\n${running.output}`,
      });
      expect(await running.end('SIGKILL')).toBeNull();
    }
  });
});
