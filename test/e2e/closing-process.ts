// A program that closes a router again and again while calls run, and says on stdout, as JSON, what became of the calls.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { ChatService, readConfig } from '@chatmesh/chat';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { freePorts } from '#engines';

const ROUNDS = 10;
/** Calls of each kind that are open at any time. */
const SIDE_BY_SIDE = 4;
/** Some answers of the directory take so long: their handlers go on while the router closes. */
const SLOW_MS = 30;
const PAGE = 1000;

const logger = createLogger({ name: 'test', level: 'silent' });
const directory = {
  async resolve(userIds: readonly string[]) {
    if (!userIds.includes(receiverId)) await sleep(Math.random() * SLOW_MS);
    const known = { blockedUserIds: new Set<string>(), readReceipts: true, suspended: false };
    return userIds.map((userId) => ({ userId, deviceIds: [userId], ...known }));
  },
};
const presence = { sessions: async () => [] };
const strays: string[] = [];
process.on('uncaughtException', (error) => strays.push(`uncaught ${error.stack}`));
process.on('unhandledRejection', (error) => strays.push(`unhandled ${(error as Error).stack}`));

const dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-closing-'));
const [port] = await freePorts(1);
const config = readConfig(new EnvReader({ DATA_DIR: dataDir, CHAT_PORT: String(port), SEND_RATE: '0' }));
const receiverId = randomUUID();
const senderId = randomUUID();
const accepted: string[] = [];
const outcomes: Record<string, number> = {};

async function start(): Promise<ChatService> {
  const deps = { logger, metrics: new Metrics({ processMetrics: false }) };
  const service = await ChatService.create(config, deps, { directory, presence, owner: { maxHoldMs: 0 } });
  await service.start();
  return service;
}

const connect = () => createClient(InternalChatService, { address: `127.0.0.1:${port}`, logger });
type Client = ReturnType<typeof connect>;

const calls: Record<string, (client: Client) => Promise<unknown>> = {
  async send(client) {
    const payload = { case: 'content', value: 'still here?' } as const;
    const { accepted: answer } = await client.sendMessage({
      message: { senderId, target: { case: 'receiverId', value: receiverId }, clientMessageId: randomUUID(), payload },
      senderDeviceId: senderId,
    });
    accepted.push(answer?.serverMessageId as string);
  },
  status: (client) => client.getMessageStatus({ senderId, serverMessageIds: idsToAskFor() }),
  inbox: (client) => client.listInbox({ userId: receiverId, deviceId: receiverId, limit: 20 }),
  inboxOfAll: (client) => client.listInbox({ userId: randomUUID(), deviceId: '', limit: 20 }),
  explain: (client) => client.explainMessage({ serverMessageId: idsToAskFor()[0] as string }),
  confirm: (client) =>
    client.confirm({ userId: receiverId, deviceId: randomUUID(), receipts: [], eventIds: [randomUUID()] }),
  devices: (client) => client.announceDevices({ devices: [{ userId: receiverId, deviceId: receiverId }] }),
};

/** One that is known, where there is one, and one that has to be looked for. */
function idsToAskFor(): string[] {
  return [...accepted.slice(-1), randomUUID()];
}

async function run(name: string, client: Client, goesOn: () => boolean): Promise<void> {
  const call = calls[name] as (client: Client) => Promise<unknown>;
  while (goesOn()) {
    const outcome = await call(client).then(
      () => 'answered',
      (error: { kind?: string }) => error.kind ?? String(error),
    );
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  }
}

let longestMs = 0;
for (let round = 0; round < ROUNDS; round++) {
  const service = await start();
  const client = connect();
  let open = true;
  const running = Object.keys(calls).flatMap((name) =>
    Array.from({ length: SIDE_BY_SIDE }, () => run(name, client, () => open)),
  );
  const enough = accepted.length + 2 * SIDE_BY_SIDE;
  while (accepted.length < enough) await turn();
  for (let n = 0; n < round; n++) await turn();
  const startedAtMs = performance.now();
  const closed = service[Symbol.asyncDispose]();
  open = false;
  await closed;
  longestMs = Math.max(longestMs, performance.now() - startedAtMs);
  await Promise.all(running);
  client.close();
}

const service = await start();
const client = connect();
const kept = new Set<string>();
for (let before = -1; before < kept.size; ) {
  before = kept.size;
  // What is on the log goes to the inbox within a moment.
  while (service.owner.unacknowledged > 0) await turn();
  const { entries } = await client.listInbox({ userId: receiverId, deviceId: receiverId, limit: PAGE });
  for (const { id } of entries) kept.add(id);
}
client.close();
await service[Symbol.asyncDispose]();
rmSync(dataDir, { recursive: true, force: true });
const lost = accepted.filter((id) => !kept.has(id)).length;
console.log(JSON.stringify({ outcomes, accepted: accepted.length, lost, strays, longestMs }));
