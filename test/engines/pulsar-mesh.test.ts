import { randomBytes } from 'node:crypto';
import { importPulsar } from '@chatmesh/mesh/pulsar';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { type Frame, WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { migrate } from './engines-env.js';
import { pulsarUrl } from './pulsar-engine.js';

/** The least that PULSAR_BACKLOG_BYTES takes. */
const LIMIT = 1024 ** 2;
/** As many bytes as a text may have. */
const CONTENT = '😀'.repeat(1_000);
/** To each of two, within their windows: more than the limit, and less than the broker's own, which is twice that. */
const ENOUGH = 150;

describe('a mesh whose log is full', () => {
  const namespace = `chatmesh/full-${randomBytes(6).toString('hex')}`;
  const adminUrl = process.env.PULSAR_ADMIN_URL as string;
  let mesh: LocalMesh;
  let ada: WireClient;
  let bob: WireClient;
  let cyd: WireClient;
  /** Never comes: what is sent to her waits in her inbox, and nowhere else. */
  let dot: TestUser;

  beforeAll(async () => {
    const env = {
      PULSAR_URL: pulsarUrl,
      PULSAR_ADMIN_URL: adminUrl,
      PULSAR_NAMESPACE: namespace,
      // Whoever is full is full for everybody.
      PULSAR_PARTITIONS: '1',
      PULSAR_BACKLOG_BYTES: String(LIMIT),
      CHAT_FINGERPRINT_KEY: randomBytes(32).toString('hex'),
    };
    migrate(env);
    // What devices do not confirm stays on the log, as it does while inboxes are away.
    mesh = await LocalMesh.start({ env, chat: { owner: { maxHoldMs: 600_000 } } });
    const users = (await mesh.users(4)) as [TestUser, TestUser, TestUser, TestUser];
    dot = users[3];
    const connecting = users.slice(0, 3).map((user) => WireClient.connect(mesh.url, user));
    [ada, bob, cyd] = (await Promise.all(connecting)) as [WireClient, WireClient, WireClient];
    for (const client of [bob, cyd]) await client.frame((f) => f.caught_up, 'caught_up');
  }, 120_000);
  afterAll(async () => {
    for (const client of [ada, bob, cyd]) await client?.close();
    await mesh?.[Symbol.asyncDispose]();
  });

  const send = (content: string, to = dot): Promise<Frame> => ada.answer(ada.message(to, content));
  const confirmed = new Set<string>();
  const unconfirmed = (client: WireClient) =>
    client.messages.map((m) => m.server_message_id as string).filter((id) => !confirmed.has(id));
  const confirm = (client: WireClient, ids: readonly string[]) => {
    client.confirm('delivered', ...ids);
    for (const id of ids) confirmed.add(id);
  };
  /** What waits is what devices were sent and have not confirmed. */
  const fill = async () => {
    const ids = Array.from({ length: ENOUGH }, () => [bob, cyd].map(({ user }) => ada.message(user, CONTENT))).flat();
    for (const id of ids) expect(await ada.answer(id)).toMatchObject({ status: 'sent' });
    for (const client of [bob, cyd])
      await until(() => unconfirmed(client).length >= ENOUGH, { what: 'all of it at the devices' });
  };
  const receiptsOf = (ids: readonly string[]) =>
    until(() => ids.every((id) => ada.frames.some((f) => f.status === 'delivered' && f.server_message_id === id)), {
      what: `receipts of ${ids.length} messages`,
    });
  /** Sends until one has the answer that is waited for; returns it. */
  const sendsUntil = async (fits: (answer: Frame) => boolean, what: string): Promise<Frame> => {
    let answer: Frame;
    await until(
      async () => {
        answer = await send('is there room?');
        return fits(answer);
      },
      { what: () => `${what}; the last answer was ${JSON.stringify(answer)}` },
    );
    return answer;
  };

  test('refuses messages as unavailable, brings receipts all the same, and takes messages again when the log is empty', async () => {
    await fill();
    const refusal = await sendsUntil((answer) => answer.error, 'a refusal');
    expect(refusal.error).toMatchObject({ code: 'unavailable', message: expect.stringContaining('too much waits') });

    // What the first one waits for, everything behind it takes room for.
    const [first, ...others] = unconfirmed(bob) as [string, ...string[]];
    confirm(bob, others);
    confirm(cyd, unconfirmed(cyd));
    await receiptsOf([...confirmed]);
    expect((await send('still full')).error).toMatchObject({ code: 'unavailable' });

    confirm(bob, [first]);
    await receiptsOf([first]);
    await sendsUntil((answer) => answer.status === 'sent', 'an acceptance');
  }, 90_000);

  /** As an operator does. */
  const admin = async (method: string, path: string, body?: unknown) => {
    const response = await fetch(`${adminUrl}/admin/v2/${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    expect([path, response.status]).toEqual([path, 204]);
  };
  const quota = (limitSize: number) =>
    admin('POST', `namespaces/${namespace}/backlogQuota?backlogQuotaType=destination_storage`, {
      limitSize,
      policy: 'producer_exception',
    });

  test('is unavailable and not ready when the broker itself is full, and goes on by itself when it has room', async () => {
    const { Client } = await importPulsar();
    const client = new Client({ serviceUrl: pulsarUrl, log: () => {} });
    /** What the broker says to a producer. */
    const refusal = () =>
      client.createProducer({ topic: `persistent://${namespace}/events-partition-0` }).then(
        async (producer) => {
          await producer.close();
          return '';
        },
        (error: Error) => error.message,
      );
    // Between the limit of the routers and the broker's is room for a burst; here it is made smaller than what waits.
    for (let n = 0; n < 5; n++) expect(await send(CONTENT, bob.user)).toMatchObject({ status: 'sent' });
    await quota(10_000);
    // The broker looks once a minute, and when a producer comes.
    await admin('PUT', `persistent/${namespace}/events/unload`);
    await until(async () => /QuotaExceeded/.test(await refusal()), { what: 'a broker that is full' });
    await client.close();
    await until(() => !mesh.chat.ready, { what: 'not ready' });
    expect((await send('into a full broker')).error).toMatchObject({ code: 'unavailable' });

    await quota(LIMIT * 2);
    await until(() => mesh.chat.ready, { what: 'ready' });
    await sendsUntil((answer) => answer.status === 'sent', 'an acceptance');
    expect(await send('to Bob', bob.user)).toMatchObject({ status: 'sent' });
    await bob.frame((f) => f.content === 'to Bob', 'what was accepted');
  }, 120_000);
});
