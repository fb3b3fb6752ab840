import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { createLogger, EnvReader, readRedisConfig } from '@chatmesh/mesh';
import { RedisClient, RedisScript } from '@chatmesh/mesh/redis';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { until } from '../contract/engine.js';
import { freePort, RedisServer } from './redis-server.js';

const logger = createLogger({ name: 'test', level: 'silent' });
const SESSIONS = new RedisScript(pathToFileURL('services/presence/lua/sessions.lua'));

async function open(variables: Record<string, string>): Promise<RedisClient> {
  const config = readRedisConfig(new EnvReader(variables));
  if (!config) throw new Error('no address of Redis');
  return await RedisClient.open(config, { logger });
}

/** Writes one session and reads it back. */
async function use(client: RedisClient): Promise<void> {
  const key = `test:{${randomUUID()}}`;
  await client.run(SESSIONS, key, [1, Date.now() + 60_000, Date.now(), 60_000, 1, 'edge/device/0']);
  expect(Object.keys(await client.hash(key))).toEqual(['edge/device/0']);
}

describe('behind sentinels', () => {
  test('the master is found, and after its death the one that follows it', async () => {
    const master = await RedisServer.start();
    const replica = await RedisServer.start('--replicaof', '127.0.0.1', String(master.port));
    const synchronised = async () => (await replica.command('INFO', 'replication')).includes('master_link_status:up');
    while (!(await synchronised()));
    const sentinel = await RedisServer.startSentinel(master);
    const known = async () =>
      (await sentinel.command('SENTINEL', 'MASTER', 'mymaster')).includes('num-slaves\r\n$1\r\n1');
    while (!(await known())) await new Promise((resolve) => setTimeout(resolve, 50));
    const client = await open({ REDIS_SENTINELS: `127.0.0.1:${sentinel.port}` });
    try {
      await use(client);
      const before = client.lineage('key');
      await master.kill();
      await until(() => !client.ready, 'the death is noticed');
      await until(() => client.ready, 'there is a new master');
      expect(client.lineage('key')).not.toBe(before);
      await use(client);
    } finally {
      await client[Symbol.asyncDispose]();
      for (const server of [sentinel, replica, master]) await server.stop();
    }
  });
});

describe('over TLS', () => {
  let directory: string;
  let server: RedisServer;
  let url: string;
  const file = (name: string) => join(directory, name);

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'chatmesh-redis-tls-'));
    const certificate = ['-keyout', file('key.pem'), '-out', file('cert.pem'), '-subj', '/CN=redis', '-days', '2'];
    const names = ['-addext', 'subjectAltName=IP:127.0.0.1'];
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', ...certificate, ...names], {
      stdio: 'ignore',
    });
    const port = await freePort();
    const files = ['--tls-cert-file', file('cert.pem'), '--tls-key-file', file('key.pem')];
    const clients = ['--tls-ca-cert-file', file('cert.pem'), '--tls-auth-clients', 'no'];
    server = await RedisServer.start('--tls-port', String(port), ...files, ...clients, '--requirepass', 'right');
    url = `rediss://:right@127.0.0.1:${port}`;
  });
  afterAll(async () => {
    await server.stop();
    await rm(directory, { recursive: true, force: true });
  });

  test('a server is used whose authority is known', async () => {
    const client = await open({ REDIS_URL: url, REDIS_CA_FILE: file('cert.pem') });
    try {
      await use(client);
    } finally {
      await client[Symbol.asyncDispose]();
    }
  });

  test('a server is not used whose authority is unknown', async () => {
    const client = await open({ REDIS_URL: url });
    try {
      expect(client.ready).toBe(false);
      await expect(client.hash('key')).rejects.toMatchObject({
        kind: 'unavailable',
        message: expect.stringContaining('certificate'),
      });
    } finally {
      await client[Symbol.asyncDispose]();
    }
  });

  test('a file of authorities that cannot be read is named', async () => {
    await expect(open({ REDIS_URL: url, REDIS_CA_FILE: file('none.pem') })).rejects.toMatchObject({
      kind: 'failed_precondition',
      message: expect.stringContaining('none.pem cannot be read: ENOENT'),
    });
  });
});

test('what a server that stands still was sent does not pile up, and its log line holds no content', async () => {
  const lines: string[] = [];
  const server = await RedisServer.start();
  const config = readRedisConfig(new EnvReader({ REDIS_URL: server.url }));
  const client = await RedisClient.open(config as NonNullable<typeof config>, {
    logger: createLogger({ name: 'test', destination: { write: (line) => void lines.push(line) } }),
  });
  try {
    server.pause();
    let refused = 0;
    for (let i = 0; i < 25_000; i++) client.hash(`secret-${i}`).catch(() => refused++);
    await until(() => refused === 25_000, 'all have failed', 5_000);
    await until(() => !client.ready, 'the connection is given up', 5_000);
    server.resume();
    await until(() => client.ready, 'it answers again');
    await use(client);
    expect(lines.join('')).not.toContain('secret');
    expect(lines.length).toBeLessThan(6);
  } finally {
    server.resume();
    await client[Symbol.asyncDispose]();
    await server.stop();
  }
});
