import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { createClient, createLogger } from '@chatmesh/mesh';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { type Frame, WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const BURST = 40;
const RATE = 10;
const steps = [
  ['back by ten minutes', -10 * MINUTE_MS],
  ['forward by 70 seconds', 70_000],
  ['forward by an hour', HOUR_MS],
] as const;

const timestampsOf = (frames: readonly Frame[]): number[] => frames.map(({ timestamp }) => Date.parse(timestamp));
const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b);

describe('a step of the wall clock of a mesh at work', () => {
  let mesh: LocalMesh;
  let setByMs = 0;
  const now = () => Date.now() + setByMs;

  beforeAll(async () => {
    mesh = await LocalMesh.start({
      env: {
        SEND_RATE: String(RATE),
        SEND_BURST: String(BURST),
        DELIVERY_RETRY_MS: '200',
        DELIVERY_RETRIES: '20',
      },
      chat: { now },
      edge: { now, turnMs: 40 },
      presence: { now },
    });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
  });
  beforeEach(() => {
    setByMs = 0;
  });

  async function pair(): Promise<{ a: WireClient; b: WireClient }> {
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    return { a: await WireClient.connect(mesh.url, ada), b: await WireClient.connect(mesh.url, bob) };
  }

  const answers = (a: WireClient, ids: readonly string[]) => Promise.all(ids.map((id) => a.answer(id)));
  const sends = (a: WireClient, b: WireClient, count: number) =>
    Array.from({ length: count }, (_, i) => a.message(b.user, `message ${i}`));

  test.each(steps)('%s: a sender gets what the limit gives, no less and no more', async (_, stepMs) => {
    const { a, b } = await pair();
    const fullMs = performance.now();
    const first = await answers(a, sends(a, b, BURST));
    expect(first.filter(({ error }) => error)).toEqual([]);
    setByMs += stepMs;
    // As many as a full bucket holds, right after it was emptied; it has filled since the first one was taken.
    const more = await answers(a, sends(a, b, BURST));
    const refusals = more.filter(({ error }) => error?.code === 'resource_exhausted');
    const given = ((performance.now() - fullMs) / 1000) * RATE;
    expect(BURST - refusals.length).toBeLessThanOrEqual(Math.ceil(given) + 1);
    // Whoever waits as told is let through.
    for (let i = 0; i < 3; i++) {
      const waitMs = Math.max(...refusals.map(({ error }) => error.retry_after_ms), 1000 / RATE);
      expect(waitMs).toBeLessThanOrEqual(2_000 / RATE);
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      expect(await a.answer(a.message(b.user, `after the step ${i}`))).toMatchObject({ status: 'sent' });
    }
    await Promise.all([a.close(), b.close()]);
  });

  test.each(steps)('%s: what was not confirmed is sent again on schedule', async (_, stepMs) => {
    const { a, b } = await pair();
    const { server_message_id: id } = await a.answer(a.message(b.user, 'again and again'));
    const copies = () => b.messages.filter((message) => message.server_message_id === id).length;
    await until(() => copies() >= 1, { what: 'the message' });
    setByMs += stepMs;
    await until(() => copies() >= 3, { what: 'two repeats' });
    expect(b.closeCode).toBeUndefined();
    await Promise.all([a.close(), b.close()]);
  });

  test.each(steps)("%s: nobody is dropped, and presence keeps the edge's lease", async (_, stepMs) => {
    const { a, b } = await pair();
    const presence = createClient(SessionService, {
      address: mesh.presenceAddress,
      logger: createLogger({ name: 'test', level: 'silent' }),
    });
    const present = async () =>
      (await presence.listSessions({ userIds: [a.user.userId, b.user.userId] })).sessions.length;
    try {
      await until(async () => (await present()) === 2, { what: 'both at presence' });
      setByMs += stepMs;
      expect(await present()).toBe(2);
      // Within a round of its wheel the edge looks at each session once.
      let pings = 0;
      a.socket.on('ping', () => pings++);
      await until(() => pings >= 2, { what: 'two pings' });
      expect(await a.answer(a.message(b.user, 'still there'))).toMatchObject({ status: 'sent' });
      await b.frame((frame) => frame.content === 'still there', 'the message');
      expect([a.closeCode, b.closeCode]).toEqual([undefined, undefined]);
      expect(await present()).toBe(2);
    } finally {
      presence.close();
      await Promise.all([a.close(), b.close()]);
    }
  });

  test("a sender's timestamps do not go back, nor do those of receipts", async () => {
    const { a, b } = await pair();
    b.socket.on('message', (data) => {
      const { content, server_message_id } = JSON.parse(String(data));
      if (content !== undefined) b.confirm('delivered', server_message_id);
    });
    const accepted: Frame[] = [];
    for (const stepMs of [0, -10 * MINUTE_MS, 70_000, -HOUR_MS, 10 * MINUTE_MS]) {
      setByMs += stepMs;
      accepted.push(await a.answer(a.message(b.user, 'in order')), await a.answer(a.message(b.user, 'in order')));
    }
    const receipts = () => a.frames.filter(({ status }) => status === 'delivered');
    // What is not acknowledged comes again.
    const messages = () => new Set(receipts().map(({ server_message_id }) => server_message_id)).size;
    await until(() => messages() === accepted.length, { what: 'the receipts' });
    expect(timestampsOf(accepted)).toEqual(sorted(timestampsOf(accepted)));
    for (const { server_message_id: id, timestamp } of receipts()) {
      const message = accepted.find(({ server_message_id }) => server_message_id === id);
      expect(Date.parse(timestamp)).toBeGreaterThanOrEqual(Date.parse(message.timestamp));
    }
    await Promise.all([a.close(), b.close()]);
  });
});

describe('a restart with another clock', () => {
  let dataDir: string;
  beforeAll(() => {
    dataDir = mkdtempSync(join(tmpdir(), 'chatmesh-clocks-'));
  });
  afterAll(() => rmSync(dataDir, { recursive: true, force: true }));

  const start = (setByMs: number, env: Record<string, string> = {}) =>
    LocalMesh.start({ dataDir, env, chat: { now: () => Date.now() + setByMs } });

  test("a sender's timestamps do not go back, also when nothing was left on the log; unless the operator wants it", async () => {
    let users: TestUser[] | undefined;
    const sendOne = async (setByMs: number, env: Record<string, string> = {}): Promise<number> => {
      const mesh = await start(setByMs, env);
      try {
        users ??= await mesh.users(2);
        const [ada, bob] = users as [TestUser, TestUser];
        const a = await WireClient.connect(mesh.url, ada);
        const b = await WireClient.connect(mesh.url, bob);
        const { server_message_id: id, timestamp } = await a.answer(a.message(bob, `at ${setByMs}`));
        await b.frame((frame) => frame.server_message_id === id, 'the message');
        b.confirm('read', id);
        const { event_id } = await a.frame((frame) => frame.status === 'read', 'the receipt');
        a.send({ ack: [event_id] });
        await until(() => mesh.chat.owner.unacknowledged === 0, { what: 'an empty log' });
        await Promise.all([a.close(), b.close()]);
        return Date.parse(timestamp);
      } finally {
        await mesh[Symbol.asyncDispose]();
      }
    };
    const times = [await sendOne(HOUR_MS), await sendOne(-HOUR_MS)];
    expect(times).toEqual(sorted(times));
    const mended = [await sendOne(-MINUTE_MS, { TIMESTAMPS_MAY_GO_BACK: 'true' }), await sendOne(0)];
    for (const time of mended) expect(Math.abs(time - Date.now())).toBeLessThan(5 * MINUTE_MS);
    expect(mended).toEqual(sorted(mended));
  }, 400_000);
});

describe('a process whose machine has its clock set', () => {
  let directory: string;
  let mesh: TestMesh;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'chatmesh-clock-'));
    const env = {
      NODE_OPTIONS: `--import=${new URL('settable-date.js', import.meta.url)}`,
      CLOCK_FILE: join(directory, 'clock'),
      SEND_RATE: String(RATE),
      SEND_BURST: '5',
      DELIVERY_RETRY_MS: '200',
      DELIVERY_RETRIES: '20',
    };
    mesh = await TestMesh.start({ env });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  const set = (byMs: number): void => {
    writeFileSync(join(directory, 'clock'), String(byMs));
    mesh.process('edge').signal('SIGUSR2');
  };

  test.each(steps)('%s: limits, repeats and connections go on as before', async (_, stepMs) => {
    set(0);
    const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
    const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
    const sent = await a.answer(a.message(bob, 'before'));
    const copies = () => b.messages.filter(({ server_message_id: id }) => id === sent.server_message_id).length;
    await until(() => copies() >= 1, { what: 'the message' });
    // A token's time is over by the wall clock: forward, its end says that the edge has looked at its sessions since.
    const [expiring] = (await mesh.users(1, { ttlSeconds: 10 })) as [TestUser];
    const e = await WireClient.connect(mesh.url, expiring);
    set(stepMs);
    if (stepMs > 0) expect(await e.closed()).toBe(4401);
    const before = copies();
    for (let i = 0; i < 15; i++) {
      await new Promise((resolve) => setTimeout(resolve, 1000 / RATE));
      const answer = await a.answer(a.message(bob, `after ${i}`));
      expect(answer).toMatchObject({ status: 'sent' });
      expect(Date.parse(answer.timestamp)).toBeGreaterThanOrEqual(Date.parse(sent.timestamp));
    }
    await until(() => copies() >= before + 2, { what: 'two repeats' });
    expect([a.closeCode, b.closeCode]).toEqual([undefined, undefined]);
    await Promise.all([a.close(), b.close(), e.close()]);
  });
});
