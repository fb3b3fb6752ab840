import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { RedisServer } from './redis-server.js';

describe('a mesh on Redis', () => {
  let server: RedisServer;
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;
  const process = () => mesh.process('chat');

  beforeAll(async () => {
    server = await RedisServer.start();
    mesh = await TestMesh.start({ env: { REDIS_URL: server.url } });
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  });
  afterAll(async () => {
    await mesh[Symbol.asyncDispose]();
    await server.stop();
  });

  const admin = (path: string) => fetch(`http://127.0.0.1:${process().adminPort}${path}`);
  const pagesFromCache = async () =>
    Number(/^chatmesh_inbox_pages_from_cache_total (\d+)/m.exec(await (await admin('/metrics')).text())?.[1]);

  /** Sends while Bob is away; resolves when all were answered with `sent`. */
  async function send(count: number, text: string): Promise<string[]> {
    const client = await WireClient.connect(mesh.url, ada);
    const ids = Array.from({ length: count }, (_, i) => client.message(bob, `${text} ${i}`));
    for (const id of ids) expect(await client.answer(id)).toMatchObject({ status: 'sent' });
    await client.close();
    return ids.map((_, i) => `${text} ${i}`);
  }

  /** Bob comes, confirms everything and goes; resolves with what came. */
  async function fetchAll(): Promise<string[]> {
    const client = await WireClient.connect(mesh.url, bob);
    await client.frame((f) => f.caught_up, 'caught_up');
    const { messages } = client;
    if (messages.length > 0) client.confirm('delivered', ...messages.map((m) => m.server_message_id));
    await client.close();
    return messages.map((m) => m.content);
  }

  test('keeps sessions there, and gives from there what waited', async () => {
    await until(async () => (await fetchAll()).length === 0, { what: 'a drain of nothing' });
    const sent = await send(20, 'cached');
    expect(await pagesFromCache()).toBe(0);
    expect(await fetchAll()).toEqual(sent);
    expect(await pagesFromCache()).toBeGreaterThan(0);
    const keys = await server.command('KEYS', '*');
    expect(keys).toContain(`chatmesh:presence:{${bob.userId}}`);
    expect(keys).toContain(`chatmesh:inbox:{${bob.userId}}:${bob.deviceId}`);
  });

  test('is not ready without it, loses nothing, and goes on by itself when it is back', async () => {
    await until(async () => (await fetchAll()).length === 0, { what: 'all confirmed' });
    await server.kill();
    await until(async () => (await admin('/readyz')).status === 503, { what: 'not ready' });
    const sent = await send(20, 'without');
    expect(await fetchAll()).toEqual(sent);
    await server.restart();
    await process().ready();
    await until(async () => (await fetchAll()).length === 0, { what: 'all confirmed' });
    const again = await send(5, 'again');
    expect(await fetchAll()).toEqual(again);
  });

  test('ends in order', async () => {
    expect(await process().end('SIGTERM')).toBe(0);
    expect(process().output).not.toMatch(/"level":"(error|fatal)"/);
  });
});
