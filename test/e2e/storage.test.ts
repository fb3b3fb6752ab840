import { join } from 'node:path';
import { DamagedRow, LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

const TABLES = ['log.entries', 'dead.entries', 'inbox.rows', 'status.batches'];

describe('what is stored of a message', () => {
  let mesh: TestMesh;

  beforeAll(async () => {
    mesh = await TestMesh.start({ split: true });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });

  /** Edges find a router again that has come back: until then they answer 503. */
  async function connect(user: TestUser): Promise<WireClient> {
    let client: WireClient | undefined;
    const refused = (error: { status?: number }) => {
      if (error.status !== 503) throw error;
      return undefined;
    };
    await until(
      async () => {
        client = await WireClient.connect(mesh.url, user).catch(refused);
        return client !== undefined;
      },
      { what: 'a connection' },
    );
    return client as WireClient;
  }

  /** Stops the router in order and says which tables hold a text. */
  async function tablesWith(text: string): Promise<string[]> {
    const router = mesh.process('chat');
    expect(await router.end('SIGTERM')).toBe(0);
    const environment = LmdbEnvironment.open(join(mesh.dataDir, 'chat'));
    const holding = TABLES.filter((name) => {
      let found = false;
      environment.table(name).forEach({}, (_, value) => {
        if (value instanceof DamagedRow) throw new Error(`a row of ${name} is damaged`);
        found ||= value.includes(text);
      });
      return found;
    });
    await environment[Symbol.asyncDispose]();
    await router.start();
    return holding;
  }

  test('2: content is gone from storage when all devices have confirmed, and the status record remains', async () => {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const a = await connect(ada);
    const text = 'seventeen purple umbrellas';
    const { server_message_id: id } = await a.answer(a.message(bob, text));
    expect(await tablesWith(text)).not.toEqual([]);
    expect(await tablesWith(id)).toContain('status.batches');

    const b = await connect(bob);
    await b.frame((f) => f.content === text);
    b.confirm('delivered', id);
    const sender = await connect(ada);
    await sender.frame((f) => f.status === 'delivered' && f.server_message_id === id);
    expect(await tablesWith(text)).toEqual([]);
    expect(await tablesWith(id)).toContain('status.batches');
  });
});
