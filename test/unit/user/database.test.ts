import { type ChildProcess, fork } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { type Client, createClient, createLogger } from '@chatmesh/mesh';
import { PgliteEngine, SqlUserStore } from '@chatmesh/user';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { sql } from 'kysely';
import { repeats } from '../../long.js';
import type { Told } from './user-process.js';

const KILLS = repeats(2, 5);
const logger = createLogger({ name: 'test', level: 'silent' });
const program = fileURLToPath(new URL('./user-process.js', import.meta.url));

let dataDir: string;
let children: ChildProcess[];
let clients: { close(): void }[];
let number = 15_550_000_000;

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-user-'));
  children = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.close();
  for (const child of children) await kill(child);
  rmSync(dataDir, { recursive: true, force: true });
});

interface Running {
  readonly child: ChildProcess;
  readonly directory: Client<typeof DirectoryService>;
}

async function spawn(): Promise<{ child: ChildProcess; told: Told }> {
  const child = fork(program, [dataDir], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  children.push(child);
  const [told] = (await once(child, 'message')) as [Told];
  return { child, told };
}

async function start(): Promise<Running> {
  const { child, told } = await spawn();
  if ('error' in told) throw new Error(told.error);
  const directory = createClient(DirectoryService, { address: `127.0.0.1:${told.port}`, logger });
  clients.push(directory);
  return { child, directory };
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

const create = async ({ directory }: Running, count = 1) =>
  (await directory.createUsers({ contactNumber: `+${number}`, name: 'Ada', count })).users.map((user) => {
    number++;
    return user.userId;
  });

describe('users across crashes', () => {
  test('who was created stays, however often the service is killed right after its answer', async () => {
    const created: string[] = [];
    let keys = '';
    for (let round = 0; round < KILLS; round++) {
      const running = await start();
      const { jwksJson } = await running.directory.getSigningKeys({});
      keys ||= jwksJson;
      expect(jwksJson).toBe(keys);
      for (let i = randomInt(1, 8); i > 0; i--) created.push(...(await create(running, randomInt(1, 50))));
      await kill(running.child);
    }
    const { directory } = await start();
    const { users } = await directory.resolveUsers({ userIds: created });
    expect(users.map(({ userId }) => userId).sort()).toEqual(created.sort());
  });

  test('a creation that was interrupted is begun anew', async () => {
    mkdirSync(join(dataDir, 'user', 'database.partial'), { recursive: true });
    writeFileSync(join(dataDir, 'user', 'database.partial', 'PG_VERSION'), '18\n');
    const running = await start();
    expect(await create(running)).toHaveLength(1);
    expect(existsSync(join(dataDir, 'user', 'database.partial'))).toBe(false);
  });

  test('a second process on the same data is refused, and told which lock file is held', async () => {
    await start();
    const [lock] = readdirSync(join(dataDir, 'user', 'lock'));
    const { told } = await spawn();
    expect(told).toEqual({ error: expect.stringContaining(join(dataDir, 'user', 'lock', lock as string)) });
  });
});

describe('a database', () => {
  const open = () => PgliteEngine.open(join(dataDir, 'database'), logger);
  const refused = { kind: 'failed_precondition', message: expect.stringContaining(`${join('database')}`) };

  let sound: string;

  beforeAll(async () => {
    sound = mkdtempSync(join(tmpdir(), 'chatmesh-user-'));
    const store = await SqlUserStore.open(await PgliteEngine.open(join(sound, 'database'), logger));
    await store[Symbol.asyncDispose]();
  });
  beforeEach(() => cpSync(sound, dataDir, { recursive: true }));
  afterAll(() => rmSync(sound, { recursive: true, force: true }));

  test('ends its thread when it is closed, also before anybody has asked it anything', async () => {
    const engine = await open();
    await engine[Symbol.asyncDispose]();
    expect(engine.ready).toBe(false);
  });

  test('without PG_VERSION is refused by its name, and left as it is', async () => {
    rmSync(join(dataDir, 'database', 'PG_VERSION'));
    const before = readdirSync(join(dataDir, 'database'));
    await expect(open()).rejects.toMatchObject(refused);
    await expect(open()).rejects.toThrow(join(dataDir, 'database'));
    expect(readdirSync(join(dataDir, 'database'))).toEqual(before);
  });

  test('that is an empty directory is refused', async () => {
    rmSync(join(dataDir, 'database'), { recursive: true });
    mkdirSync(join(dataDir, 'database'));
    await expect(open()).rejects.toThrow(join(dataDir, 'database'));
    expect(readdirSync(join(dataDir, 'database'))).toEqual([]);
  });

  test('whose control file was cut short is refused', async () => {
    truncateSync(join(dataDir, 'database', 'global', 'pg_control'), 100);
    await expect(open()).rejects.toMatchObject(refused);
  });

  test('whose write-ahead log is missing is refused', async () => {
    const wal = join(dataDir, 'database', 'pg_wal');
    for (const name of readdirSync(wal)) rmSync(join(wal, name), { recursive: true });
    await expect(open()).rejects.toMatchObject(refused);
  });
});

describe('a page of the database that is damaged on the disk', () => {
  test('is told by its checksum: a read of it fails, and gives no altered data', async () => {
    const directory = join(dataDir, 'database');
    const name = 'A name that is easily found';
    {
      await using engine = await PgliteEngine.open(directory, logger);
      await sql`create table people (name text)`.execute(engine.db);
      await sql`insert into people values (${name})`.execute(engine.db);
      await sql`checkpoint`.execute(engine.db);
    }
    let altered = 0;
    for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
      const file = join(entry.parentPath, entry.name);
      if (!entry.isFile() || !file.includes('/base/')) continue;
      const bytes = readFileSync(file);
      const at = bytes.indexOf(name);
      if (at < 0) continue;
      bytes[at] = (bytes[at] as number) ^ 1;
      writeFileSync(file, bytes);
      altered++;
    }
    expect(altered).toBe(1);
    await using engine = await PgliteEngine.open(directory, logger);
    await expect(sql`select name from people`.execute(engine.db)).rejects.toMatchObject({ kind: 'unavailable' });
  });
});
