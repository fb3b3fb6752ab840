import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { WireClient } from '../client.js';
import { MeshProcess, type ServiceName, TestMesh, type TestUser } from '../mesh.js';

const HOOK = fileURLToPath(new URL('../../e2e/missing-packages.mjs', import.meta.url));
const MIGRATE = fileURLToPath(new URL('../../../services/dist/migrate.js', import.meta.url));
const DRIVERS = ['pulsar-client', 'cassandra-driver', 'ioredis', 'pg'];

/** The environment of a process to which some packages look as if they were not installed. */
const without = (...packages: string[]): NodeJS.ProcessEnv => ({
  NODE_OPTIONS: `--import ${pathToFileURL(HOOK).href}`,
  MISSING_PACKAGES: packages.join(','),
});

const FINGERPRINTS = { CHAT_FINGERPRINT_KEY: 'ab'.repeat(32) };
const PULSAR = { PULSAR_URL: 'pulsar://127.0.0.1:9', PULSAR_ADMIN_URL: 'http://127.0.0.1:9', ...FINGERPRINTS };
const SCYLLA = { SCYLLA_CONTACT_POINTS: '127.0.0.1:9', SCYLLA_LOCAL_DATACENTER: 'datacenter1', ...FINGERPRINTS };
const REDIS = { REDIS_URL: 'redis://127.0.0.1:9' };
const POSTGRES = { DATABASE_URL: 'postgres://127.0.0.1:9/chatmesh' };

describe('the drivers of real engines', () => {
  let dataDir: string;

  beforeEach(() => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-drivers-'));
  });
  afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

  test('are not needed by a mesh on embedded stores', async () => {
    await using mesh = await TestMesh.start({ env: without(...DRIVERS) });
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = await Promise.all([WireClient.connect(mesh.url, ada), WireClient.connect(mesh.url, bob)]);
    expect(await a.answer(a.message(bob, 'hello'))).toMatchObject({ status: 'sent' });
    await b.frame((frame) => frame.content === 'hello');
    await Promise.all([a.close(), b.close()]);
  });

  test.each<[string, ServiceName, string, NodeJS.ProcessEnv]>([
    ['pulsar-client', 'chat', 'PULSAR_URL', PULSAR],
    ['cassandra-driver', 'chat', 'SCYLLA_CONTACT_POINTS', SCYLLA],
    ['ioredis', 'chat', 'REDIS_URL', REDIS],
    ['ioredis', 'presence', 'REDIS_URL', REDIS],
    ['pg', 'user', 'DATABASE_URL', POSTGRES],
  ])('%s is named with its remedy where it is missing and %s needs it', async (name, service, variable, engine) => {
    const [admin, port] = (await freePorts(2)) as [number, number];
    const ports = { CHAT_PORT: String(port), USER_PORT: String(port), PRESENCE_PORT: String(port) };
    const variables = { PATH: process.env.PATH, DATA_DIR: dataDir, ...ports, ...engine, ...without(name) };
    const started = new MeshProcess([service], admin, variables);
    started.launch();
    expect(await started.exited()).toBe(1);
    expect(started.output).toContain('cannot start');
    expect(started.output).toContain(variable);
    expect(started.output).toContain(`npm install ${name}`);
  });

  test('are named by a migration, too, that needs them and does not find them', async () => {
    const env = { PATH: process.env.PATH, ...PULSAR, ...SCYLLA, ...POSTGRES, ...without('cassandra-driver', 'pg') };
    const said = await new Promise<string>((resolve) => {
      execFile(process.execPath, [MIGRATE, '--json'], { env }, (_, stdout) => resolve(stdout));
    });
    const lines = said
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { engine: string; error: string });
    const errorOf = (engine: string) => lines.find((line) => line.engine === engine)?.error;
    expect(errorOf('ScyllaDB')).toContain('npm install cassandra-driver');
    expect(errorOf('PostgreSQL')).toContain('npm install pg');
    // What prepares Pulsar is its HTTP interface, which needs no driver.
    expect(errorOf('Pulsar')).toContain('ECONNREFUSED');
  });
});
