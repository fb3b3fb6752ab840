import { type ChildProcess, execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { type Client, type ClientControl, createClient, type MeshError } from '@chatmesh/mesh';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { until } from '../mesh.js';
import type { Told } from '../unit/user/user-process.js';

const program = fileURLToPath(new URL('../unit/user/user-process.js', import.meta.url));

describe('users on a full disk', () => {
  let dataDir: string;
  let child: ChildProcess;
  let directory: Client<typeof DirectoryService> & ClientControl;
  let number = 15_550_000_000;

  beforeAll(async () => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-user-'));
    child = fork(program, [dataDir], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
    const [told] = (await once(child, 'message')) as [Told];
    if ('error' in told) throw new Error(told.error);
    directory = createClient(DirectoryService, { address: `127.0.0.1:${told.port}` });
  });
  afterAll(async () => {
    directory?.close();
    child.kill('SIGKILL');
    await once(child, 'exit');
    rmSync(dataDir, { recursive: true, force: true });
  });

  const create = async () => {
    const { users } = await directory.createUsers({ contactNumber: `+${number}`, name: 'Ada' });
    number++;
    return users.map(({ userId }) => userId);
  };

  /** A limit of the size of files stands for the end of the disk. */
  function limit(bytes: string): void {
    try {
      execFileSync('prlimit', [`--pid=${child.pid}`, `--fsize=${bytes}:unlimited`]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      throw new Error('this test limits a process, and there is no prlimit: install util-linux, on Linux');
    }
  }

  test('creating is unavailable, and served again when there is room', async () => {
    const before = await create();
    limit('4096');
    const refusal = await create().catch((error: MeshError) => error.kind);
    expect(refusal).toBe('unavailable');
    limit('unlimited');
    let after: string[] = [];
    await until(async () => {
      after = await create().catch(() => []);
      return after.length > 0;
    });
    const { users } = await directory.resolveUsers({ userIds: [...before, ...after] });
    expect(users).toHaveLength(2);
  });
});
