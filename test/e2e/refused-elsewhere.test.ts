import { randomUUID } from 'node:crypto';
import { EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import type { Submit } from '@chatmesh/gen/chat/v1/router';
import { createLogger, EnvReader, type MeshError, Metrics } from '@chatmesh/mesh';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { FakeRouter } from '../fake-router.js';
import { until } from '../mesh.js';

const host = '127.0.0.1';
const logger = createLogger({ name: 'test', level: 'silent' });

describe('messages of one connection that a router refuses are asked of another one', () => {
  let routers: FakeRouter[];
  let edge: EdgeService;

  beforeEach(async () => {
    routers = [await FakeRouter.start(), await FakeRouter.start()];
    const [port, h2Port] = await freePorts(2);
    const env = new EnvReader({
      ...{ EDGE_HOST: host, EDGE_PORT: String(port), EDGE_H2_PORT: String(h2Port) },
      CHAT_ADDRESSES: routers.map(({ address }) => address).join(),
    });
    edge = await EdgeService.create(edgeConfig(env), { logger, metrics: new Metrics({ processMetrics: false }) });
    await edge.start();
    await until(() => edge.sessions.routers.reach.connected === 2, { what: 'both routers' });
  }, 60_000);
  afterEach(async () => {
    await edge?.[Symbol.asyncDispose]();
    for (const router of routers) await router[Symbol.asyncDispose]();
  });
  const submitsTo = (router: FakeRouter) => router.requests.flatMap(({ submits }) => submits);
  const idsOf = (router: FakeRouter) => submitsTo(router).map(({ clientMessageId }) => clientMessageId);

  /** A session that has sent so many messages, which one of the routers has and has not answered. */
  async function session(messages: number) {
    const userId = randomUUID();
    const answers: string[] = [];
    const sink = {
      bufferedBytes: 0,
      receivedBytes: 0,
      close() {},
      pause() {},
      ping() {},
      accepted: (id: string) => answers.push(`${id} accepted`),
      error: ({ kind }: MeshError, id: string) => answers.push(`${id} ${kind}`),
    } as never;
    const opened = edge.sessions.open({ userId, deviceId: randomUUID(), expiresAtMs: Number.MAX_VALUE }, sink);
    const send = (clientMessageId: string) =>
      edge.sessions.act(opened, {
        kind: 'send',
        senderId: userId,
        receiverId: randomUUID(),
        groupId: '',
        clientMessageId,
        payload: new Uint8Array(0),
        sealed: false,
      });
    for (let i = 1; i <= messages; i++) send(`m${i}`);
    await until(() => routers.some((router) => submitsTo(router).length === messages), { what: 'the submits' });
    const [first, other] = submitsTo(routers[0] as FakeRouter).length > 0 ? routers : [...routers].reverse();
    return { opened, send, answers, first: first as FakeRouter, other: other as FakeRouter };
  }
  const refOf = (router: FakeRouter, id: string) =>
    (submitsTo(router).find(({ clientMessageId }) => clientMessageId === id) as Submit).ref;
  // By a router that leaves: what is refused otherwise goes back to the client.
  const refuse = (router: FakeRouter, id: string) =>
    router.say({
      leaving: true,
      submitResults: [{ ref: refOf(router, id), refusal: { code: 'unavailable', message: 'not now' } }],
    });
  const accept = (router: FakeRouter, id: string) =>
    router.say({ submitResults: [{ ref: refOf(router, id), acceptedAtMs: 1n }] });

  test('in the order in which they were sent, whatever was sent meanwhile', async () => {
    const { opened, send, answers, first, other } = await session(3);
    refuse(first, 'm1');
    await until(() => opened.detour !== undefined, { what: 'the refusal' });
    send('m4');
    refuse(first, 'm3');
    refuse(first, 'm2');
    await until(() => idsOf(other).length === 4, { what: 'all four at the other router' });
    expect(idsOf(other)).toEqual(['m1', 'm2', 'm3', 'm4']);
    for (const id of ['m1', 'm2', 'm3', 'm4']) accept(other, id);
    await until(() => answers.length === 4, { what: 'the answers' });
    expect(answers).toEqual(['m1 accepted', 'm2 accepted', 'm3 accepted', 'm4 accepted']);
  }, 60_000);

  test('unless a later one is accepted already: then its sender is told', async () => {
    const { answers, first, other } = await session(3);
    refuse(first, 'm1');
    accept(first, 'm2');
    refuse(first, 'm3');
    await until(() => idsOf(other).length === 1, { what: 'the last one at the other router' });
    expect(idsOf(other)).toEqual(['m3']);
    accept(other, 'm3');
    await until(() => answers.length === 3, { what: 'the answers' });
    expect(answers).toEqual(['m2 accepted', 'm1 unavailable', 'm3 accepted']);
  }, 60_000);

  test('a connection that ends meanwhile leaves nothing in flight', async () => {
    const { opened, first } = await session(2);
    refuse(first, 'm1');
    await until(() => opened.detour !== undefined, { what: 'the refusal' });
    edge.sessions.close(opened, 1001, 'test');
    refuse(first, 'm2');
    await until(() => edge.sessions.inFlight === 0, { what: 'nothing in flight' });
  }, 60_000);
});
