import { randomUUID } from 'node:crypto';
import { migrateUsers } from '@chatmesh/user/migrate';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { deviceOf, SECRET } from '../devices.js';
import { receiveAll } from '../drill.js';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { operator } from '../operator.js';
import { newDatabase, sharedUrl, statement } from './postgres-server.js';

/** The drill of docs/operations.md, "Restore", with the database of users put back while routers and edges stay. */
let database: { url: string; drop(): Promise<void> };
let mesh: TestMesh;

beforeAll(async () => {
  database = await newDatabase(sharedUrl());
  await migrateUsers(database);
  mesh = await TestMesh.start({ split: true, env: { DATABASE_URL: database.url, AUTH_HS256_SECRET: SECRET } });
}, 120_000);
afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]();
  await database.drop();
});

const databaseName = () => new URL(database.url).pathname.slice(1);

/** Puts a database's copy in another's place; nobody may be connected to either. */
async function copyDatabase(from: string, to: string): Promise<void> {
  await statement(sharedUrl(), `drop database if exists ${to}`);
  await statement(sharedUrl(), `create database ${to} template ${from}`);
}

/** Connects, again and again while a service is still on its way back. */
async function connect(user: TestUser): Promise<WireClient> {
  let client: WireClient | undefined;
  await until(async () => {
    client = await WireClient.connect(mesh.url, user).catch((error) => {
      if (error.status !== 503) throw error;
      return undefined;
    });
    return client !== undefined;
  });
  return client as WireClient;
}

async function send(from: TestUser, to: TestUser, texts: string[], ids: string[] = texts.map(() => randomUUID())) {
  const client = await connect(from);
  const answers = [];
  for (const [i, text] of texts.entries()) client.message(to, text, ids[i]);
  for (const id of ids) answers.push(await client.answer(id));
  await client.close();
  return { ids, answers };
}

/** What waits for a device; all of it is confirmed. */
async function receive(user: TestUser): Promise<string[]> {
  return (await receiveAll(await connect(user))).map((m) => m.content as string);
}

const suspend = async ({ userId }: TestUser) => {
  const addresses = { CHAT_ADDRESSES: mesh.chatAddress, USER_ADDRESS: mesh.userAddress };
  expect((await operator(addresses, 'admin', 'suspend', userId)).exitCode).toBe(0);
};

test('restored users forget devices, people and suspensions since, and no message of those whom they know', async () => {
  const user = mesh.process('user');
  const [ada, bob, dora] = (await mesh.users(3)) as [TestUser, TestUser, TestUser];
  const backup = `${databaseName()}_backup`;
  expect(await receive(bob)).toEqual([]);
  expect(await user.end('SIGTERM')).toBe(0);
  await copyDatabase(databaseName(), backup);
  await user.start();

  const tablet = await deviceOf(bob);
  expect(await receive(tablet)).toEqual([]);
  const [carl] = (await mesh.users(1)) as [TestUser];
  await suspend(dora);
  const early = await send(ada, bob, ['m1', 'm2']);
  await send(ada, carl, ['for Carl']);

  expect(await user.end('SIGTERM')).toBe(0);
  await copyDatabase(backup, databaseName());
  await statement(sharedUrl(), `drop database ${backup}`);
  await user.start();
  await mesh.process('chat').end('SIGTERM');
  await mesh.process('chat').start();

  const late = await send(ada, bob, ['m3', 'm4']);
  expect((await send(ada, carl, ['for Carl again'])).answers).toMatchObject([{ error: { code: 'not_found' } }]);
  await expect(connect(carl)).rejects.toMatchObject({ status: 401 });
  expect(await receive(bob)).toEqual(['m1', 'm2', 'm3', 'm4']);
  expect(await receive(tablet)).toEqual(['m1', 'm2']);
  await send(ada, bob, ['m5']);
  expect([await receive(bob), await receive(tablet)]).toEqual([['m5'], ['m5']]);
  expect(await receive(dora)).toEqual([]);

  const again = await send(ada, bob, ['m1', 'm2', 'm3', 'm4'], [...early.ids, ...late.ids]);
  expect(again.answers.map(({ deduplicated }) => deduplicated)).toEqual([true, true, true, true]);
  expect([await receive(bob), await receive(tablet)]).toEqual([[], []]);
}, 120_000);
