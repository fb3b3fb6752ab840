import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ChatService, readConfig } from '@chatmesh/chat';
import { createLogger, EnvReader, Metrics, writeOnce } from '@chatmesh/mesh';
import { LmdbEnvironment, rowOfBytes } from '@chatmesh/mesh/lmdb';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

const KEY = Buffer.from('key');
const VALUE = Buffer.from('value');

let dataDir: string;
let directory: string;

beforeEach(() => {
  dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-once-'));
  directory = join(dataDir, 'chat');
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

/** Opens the router's stores, and closes them. */
async function startRouter(env: NodeJS.ProcessEnv = {}): Promise<void> {
  const deps = {
    logger: createLogger({ name: 'test', level: 'silent' }),
    metrics: new Metrics({ processMetrics: false }),
  };
  const config = readConfig(new EnvReader({ DATA_DIR: dataDir, ...env }));
  await (await ChatService.create(config, deps))[Symbol.asyncDispose]();
}

async function store(): Promise<void> {
  await using environment = LmdbEnvironment.open(directory);
  const table = environment.table('table');
  await environment.write(() => table.put(KEY, rowOfBytes(VALUE)));
}

async function stored(): Promise<unknown> {
  await using environment = LmdbEnvironment.open(directory);
  return environment.table('table').get(KEY);
}

describe('the file that says which format the data has', () => {
  test.each<[string, (marker: string) => void]>([
    ['that is empty', (marker) => truncateSync(marker, 0)],
    ['that is cut short', (marker) => truncateSync(marker, 5)],
    ['that holds something else', (marker) => writeFileSync(marker, Buffer.alloc(20, 0xf0))],
    ['that is gone', (marker) => unlinkSync(marker)],
  ])('%s is named, with a remedy that brings the sound data back and throws nothing away', async (_, damage) => {
    await store();
    const marker = join(directory, 'FORMAT');
    const line = readFileSync(marker, 'utf8').trim();
    damage(marker);
    const refusal = await stored().then(String, (error) => error);
    expect(refusal).toMatchObject({ kind: 'failed_precondition', message: expect.stringContaining(marker) });
    expect(refusal.message).toContain('leave the data file where it is');
    expect(refusal.message).toContain(`echo '${line}' > ${marker}`);
    expect(refusal.message).not.toContain('move');
    writeFileSync(marker, `${line}\n`);
    expect(await stored()).toEqual(VALUE);
  });

  test('of another version is told from a damaged one', async () => {
    await store();
    writeFileSync(join(directory, 'FORMAT'), 'chatmesh lmdb 999\n');
    const refusal = await stored().then(String, (error) => error);
    expect(refusal.message).toContain('chatmesh lmdb 999');
    expect(refusal.message).toContain('start the version that wrote it');
  });

  test('may be missing where the first start ended before it was written', async () => {
    await LmdbEnvironment.open(directory)[Symbol.asyncDispose]();
    unlinkSync(join(directory, 'FORMAT'));
    await store();
    expect(await stored()).toEqual(VALUE);
  });
});

describe('the key of the fingerprints', () => {
  const file = () => join(directory, 'fingerprint.key');

  test('stays what the first start made it, and nobody else may read it', async () => {
    await startRouter();
    const key = readFileSync(file());
    expect(statSync(file()).mode & 0o077).toBe(0);
    await startRouter();
    expect(readFileSync(file())).toEqual(key);
    expect(readdirSync(directory).filter((name) => name.endsWith('.new'))).toEqual([]);
  });

  test('that is missing beside data is an error that names its remedy, and no new one is made', async () => {
    await startRouter();
    const key = readFileSync(file());
    unlinkSync(file());
    const refusal = await startRouter().then(String, (error) => error);
    expect(refusal).toMatchObject({ kind: 'failed_precondition', message: expect.stringContaining(file()) });
    expect(refusal.message).toContain('restore it from a backup');
    expect(existsSync(file())).toBe(false);
    writeFileSync(file(), key);
    await startRouter();
  });

  test('is not asked of a router that is given one', async () => {
    const env = { CHAT_FINGERPRINT_KEY: 'ab'.repeat(32) };
    await startRouter(env);
    await startRouter(env);
    expect(existsSync(file())).toBe(false);
    await expect(startRouter()).rejects.toThrow('CHAT_FINGERPRINT_KEY');
  });

  test('is kept where the first start ended before there was data', async () => {
    await startRouter();
    for (const name of readdirSync(directory))
      if (name !== 'fingerprint.key') rmSync(join(directory, name), { recursive: true });
    const key = readFileSync(file());
    await startRouter();
    expect(readFileSync(file())).toEqual(key);
  });
});

describe('a file that is written once', () => {
  test('takes the place of what an interrupted attempt left', () => {
    writeFileSync(join(dataDir, 'file.new'), 'something long that was cut sh');
    writeOnce(join(dataDir, 'file'), 'whole');
    expect(readFileSync(join(dataDir, 'file'), 'utf8')).toBe('whole');
    expect(readdirSync(dataDir)).toEqual(['file']);
  });

  test('that cannot be written is named', () => {
    expect(() => writeOnce(join(dataDir, 'nowhere', 'file'), '')).toThrow(join(dataDir, 'nowhere', 'file'));
  });
});
