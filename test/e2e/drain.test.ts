import { formatReport, History } from '@chatmesh/sdk/testing';
import { afterEach, describe, expect, test } from '@jest/globals';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { Speaker } from '../speaker.js';

/** Section 4 of the wire contract: a drain takes 25 s at most; only what is in flight should decide how long. */
const DRAIN_MS = 25_000;

describe('a router that drains while edges keep their streams to it', () => {
  let mesh: TestMesh | undefined;
  let speakers: Speaker[] = [];
  afterEach(async () => {
    await Promise.all(speakers.map((speaker) => speaker.close()));
    await mesh?.[Symbol.asyncDispose]();
  });

  test('leaves long before its deadline, with exit code 0, and nothing is lost, repeated, doubled or reordered', async () => {
    mesh = await TestMesh.start({ split: true });
    const chat = mesh.process('chat');
    const history = new History();
    const users = (await mesh.users(2)) as [TestUser, TestUser];
    speakers = users.map((user) => new Speaker((mesh as TestMesh).url, user, history));
    const [ada, bob] = speakers as [Speaker, Speaker];
    ada.talkTo(users[1].userId);
    bob.talkTo(users[0].userId);
    const traffic = async (what: string) => {
      const before = ada.accepted + bob.accepted;
      await until(() => ada.accepted + bob.accepted > before + 100, { timeoutMs: 60_000, what });
    };
    await traffic('traffic');
    const startedMs = performance.now();
    expect(await chat.end('SIGTERM')).toBe(0);
    expect(performance.now() - startedMs).toBeLessThan(DRAIN_MS * 0.8);
    const { output } = mesh.process('edge');
    expect(output).toContain('a router has ended its stream');
    expect(output).not.toContain('the stream to a router is gone');
    await chat.start();
    await traffic('traffic after the restart');
    await Promise.all(speakers.map((speaker) => speaker.finish()));
    const sent = ada.sent + bob.sent;
    await until(() => ada.got.size + bob.got.size === sent && ada.receipts.size + bob.receipts.size === sent, {
      timeoutMs: 30_000,
      what: 'every message and every receipt',
    });
    await Promise.all(speakers.map((speaker) => speaker.reconnect()));
    const report = history.check();
    console.log(formatReport(report));
    expect(Object.entries(report.faults).filter(([, { count }]) => count > 0)).toEqual([]);
    expect(report.counts).toMatchObject({ sends: sent, accepted: sent, delivered: sent });
  });
});
