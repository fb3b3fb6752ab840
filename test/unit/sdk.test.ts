import { randomUUID } from 'node:crypto';
import {
  type Chat,
  type ClientFrame,
  type ConnectionStatus,
  type ConnectOptions,
  connect,
  type Message,
  type ServerFrame,
} from '@chatmesh/sdk';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { fakeToken, ScriptedServer, until } from './sdk-server.js';

const ada = randomUUID();
const grace = randomUUID();
const token = fakeToken(ada, randomUUID());
const at = '2026-03-01T09:30:00.123Z';

let server: ScriptedServer;
let chats: Chat[];

beforeEach(async () => {
  server = await ScriptedServer.start();
  chats = [];
});

afterEach(async () => {
  await Promise.all(chats.map((chat) => chat.close()));
  await server[Symbol.asyncDispose]();
});

async function open(options: Partial<ConnectOptions> = {}): Promise<Chat> {
  const chat = await connect({ url: server.url, token, ...options });
  chats.push(chat);
  return chat;
}

function message(serverMessageId: string, content = 'hello'): ServerFrame {
  return { sender_id: grace, content, timestamp: at, server_message_id: serverMessageId };
}

function receipt(eventId: string): ServerFrame {
  return {
    status: 'delivered',
    timestamp: at,
    server_message_id: randomUUID(),
    client_message_id: randomUUID(),
    event_id: eventId,
  };
}

function accept(frame: ClientFrame): ServerFrame | undefined {
  if (!('client_message_id' in frame)) return undefined;
  return {
    status: 'sent',
    timestamp: at,
    client_message_id: frame.client_message_id,
    server_message_id: `server-of-${frame.client_message_id}`,
  };
}

const sends = () => server.heard.flatMap(({ frame }) => ('client_message_id' in frame ? [frame] : []));
const confirmed = (status: 'delivered' | 'read') =>
  server.heard.flatMap(({ frame }) =>
    'server_message_ids' in frame && frame.status === status ? frame.server_message_ids : [],
  );
const acks = () => server.heard.flatMap(({ frame }) => ('ack' in frame ? frame.ack : []));

describe('sending', () => {
  test('a send resolves with what the server accepted', async () => {
    server.answer = accept;
    const chat = await open();
    const clientMessageId = randomUUID();
    await expect(chat.send({ to: grace, text: 'hi', clientMessageId })).resolves.toEqual({
      clientMessageId,
      serverMessageId: `server-of-${clientMessageId}`,
      timestamp: at,
      deduplicated: false,
    });
    expect(sends()).toMatchObject([{ sender_id: ada, receiver_id: grace, content: 'hi' }]);
  });

  test('what has no answer when the connection dies is sent again in the same order under the same ids', async () => {
    const chat = await open();
    const all = ['one', 'two', 'three'].map((text) => chat.send({ to: grace, text }));
    await until(() => sends().length === 3);
    server.answer = accept;
    server.cut();
    await Promise.all(all);
    const [first, second] = [1, 2].map((connection) =>
      server.heard.flatMap((heard) => (heard.connection === connection ? [heard.frame] : [])),
    );
    expect(second).toEqual(first);
  });

  test('a send made while offline goes out on the next connection', async () => {
    server.answer = accept;
    const chat = await open();
    const states: string[] = [];
    chat.on('status', ({ state }) => states.push(state));
    server.cut();
    await until(() => states.includes('waiting'));
    await expect(chat.send({ to: grace, text: 'later' })).resolves.toMatchObject({ deduplicated: false });
    expect(states).toEqual(['waiting', 'connecting', 'online']);
  });

  test.each(['unavailable', 'resource_exhausted'])('%s is retried after the given time, in order', async (code) => {
    let refusals = 0;
    let refusedAtMs = 0;
    let retriedAtMs = 0;
    server.answer = (frame) => {
      if (!('client_message_id' in frame)) return undefined;
      if (refusals < 2) {
        refusals += 1;
        refusedAtMs ||= performance.now();
        return { error: { code, message: 'slower', retry_after_ms: 60 }, client_message_id: frame.client_message_id };
      }
      retriedAtMs ||= performance.now();
      return accept(frame);
    };
    let refused = 0;
    const chat = await open({ onTrace: (entry) => void (entry.kind === 'in' && 'error' in entry.frame && refused++) });
    const first = chat.send({ to: grace, text: 'first' });
    const second = chat.send({ to: grace, text: 'second' });
    await until(() => refused === 2);
    const third = chat.send({ to: grace, text: 'third' });
    await Promise.all([first, second, third]);
    expect(retriedAtMs - refusedAtMs).toBeGreaterThan(40);
    expect(sends().map(({ content }) => content)).toEqual(['first', 'second', 'first', 'second', 'third']);
  });

  test.each(['not_found', 'permission_denied', 'already_exists', 'invalid_argument'])(
    '%s rejects the send with that code and is not retried',
    async (code) => {
      server.answer = (frame) =>
        'client_message_id' in frame
          ? { error: { code, message: 'no' }, client_message_id: frame.client_message_id }
          : undefined;
      const chat = await open();
      await expect(chat.send({ to: grace, text: 'x' })).rejects.toMatchObject({ name: 'ChatError', code });
      expect(sends()).toHaveLength(1);
    },
  );

  test('what the server could not answer is refused here', async () => {
    const chat = await open();
    await expect(chat.send({ to: 'grace', text: 'x' })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(chat.send({ to: grace, text: '' })).rejects.toMatchObject({ code: 'invalid_argument' });
    await expect(chat.send({ to: grace, text: '💬'.repeat(1001) })).rejects.toMatchObject({ code: 'invalid_argument' });
    server.answer = accept;
    await expect(chat.send({ to: grace, text: '💬'.repeat(1000) })).resolves.toBeDefined();
  });

  test('a full outbox refuses', async () => {
    const chat = await open({ maxOutbox: 1 });
    const waiting = chat.send({ to: grace, text: 'x' });
    await expect(chat.send({ to: grace, text: 'y' })).rejects.toMatchObject({ code: 'resource_exhausted' });
    await Promise.all([expect(waiting).rejects.toMatchObject({ code: 'closed' }), chat.close()]);
  });

  test('the same id twice at once is one send, and another content under it is refused', async () => {
    const chat = await open();
    const clientMessageId = randomUUID();
    const twice = [1, 2].map(() => chat.send({ to: grace, text: 'x', clientMessageId }));
    await expect(chat.send({ to: grace, text: 'y', clientMessageId })).rejects.toMatchObject({
      code: 'already_exists',
    });
    server.answer = accept;
    server.cut();
    expect(await twice[0]).toBe(await twice[1]);
  });
});

describe('receiving', () => {
  test('a message is shown once and confirmed after its handler has finished', async () => {
    const chat = await open();
    const shown: Message[] = [];
    let finish: () => void = () => undefined;
    chat.on('message', (m) => {
      shown.push(m);
      return new Promise<void>((resolve) => {
        finish = resolve;
      });
    });
    server.push(message('m1'), message('m1'));
    await until(() => shown.length === 1);
    server.push({ caught_up: true });
    await new Promise<void>((resolve) => chat.on('caught_up', () => resolve()));
    expect(confirmed('delivered')).toEqual([]);
    finish();
    await until(() => confirmed('delivered').length > 0);
    expect(shown).toEqual([{ serverMessageId: 'm1', senderId: grace, text: 'hello', timestamp: at }]);
    expect(confirmed('delivered')).toEqual(['m1']);
  });

  test('a repeat of a confirmed message is confirmed again and not shown', async () => {
    const chat = await open();
    let shown = 0;
    chat.on('message', () => {
      shown += 1;
    });
    server.push(message('m1'));
    await until(() => confirmed('delivered').length === 1);
    server.push(message('m1'));
    await until(() => confirmed('delivered').length === 2);
    expect(shown).toBe(1);
  });

  test('a message whose handler failed is not confirmed and is shown when it comes again', async () => {
    const chat = await open();
    const errors: string[] = [];
    chat.on('error', (error) => errors.push(error.code));
    let attempts = 0;
    chat.on('message', () => {
      attempts += 1;
      if (attempts === 1) throw new Error('disk full');
    });
    server.push(message('m1'), message('m1'));
    await until(() => confirmed('delivered').length === 1);
    expect(errors).toEqual(['handler_failed']);
    expect(attempts).toBe(2);
  });

  test('confirmations of one turn share frames of at most 256', async () => {
    const chat = await open();
    const ids = Array.from({ length: 600 }, (_, i) => `m${i}`);
    server.push(...ids.map((id) => message(id)));
    const held = new Promise<void>((resolve) => chat.on('caught_up', () => resolve()));
    server.push({ caught_up: true });
    await held;
    chat.on('message', () => undefined);
    await until(() => confirmed('delivered').length === 600);
    expect(confirmed('delivered')).toEqual(ids);
    expect(server.heard).toHaveLength(3);
  });

  test('what arrives before a handler is there is held, and unconfirmed until then', async () => {
    const chat = await open();
    server.push(receipt('e1'), message('m1'), { caught_up: true });
    await new Promise<void>((resolve) => chat.on('caught_up', () => resolve()));
    const receipts: string[] = [];
    chat.on('receipt', ({ eventId }) => receipts.push(eventId));
    await until(() => acks().length === 1);
    expect(receipts).toEqual(['e1']);
    expect(confirmed('delivered')).toEqual([]);
    chat.on('message', () => undefined);
    await until(() => confirmed('delivered').length === 1);
  });

  test('whoever listens right after connect hears everything, also what came with the opening', async () => {
    server.greeting = [message('m1'), { caught_up: true }];
    for (let round = 0; round < 20; round++) {
      const chat = await open();
      const heard: string[] = [];
      chat.on('caught_up', () => heard.push('caught_up'));
      chat.on('message', () => heard.push('message'));
      await until(() => heard.length === 2);
      expect(heard).toEqual(['message', 'caught_up']);
    }
  });

  test('receipts and events are shown once and acknowledged, repeats again', async () => {
    const chat = await open();
    const shown: unknown[] = [];
    chat.on('receipt', ({ eventId, status }) => shown.push([eventId, status]));
    chat.on('event', (event) => shown.push(event));
    const event: ServerFrame = { event: { event_id: 'e2', kind: 'device_changed', user_id: grace } };
    server.push(receipt('e1'), event);
    await until(() => acks().length === 2);
    server.push(receipt('e1'), event);
    await until(() => acks().length === 4);
    expect(shown).toEqual([['e1', 'delivered'], { eventId: 'e2', kind: 'device_changed', userId: grace }]);
  });

  test('with autoConfirm off nothing is confirmed', async () => {
    const chat = await open({ autoConfirm: false });
    let shown = 0;
    chat.on('message', () => {
      shown += 1;
    });
    server.push(message('m1'));
    await until(() => shown === 1);
    await chat.close();
    expect(server.heard).toEqual([]);
  });

  test('a read that may have been lost with its connection is sent again', async () => {
    const chat = await open();
    chat.on('message', (m) => chat.markRead(m.serverMessageId));
    server.push(message('m1'));
    await until(() => confirmed('read').length === 1);
    server.cut();
    await until(() => confirmed('read').length === 2);
    expect(confirmed('delivered')).toEqual([]);
  });

  test('a confirmation that was not sent when the connection died is sent on the next', async () => {
    const chat = await open();
    let finish: () => void = () => undefined;
    const handling = new Promise<void>((started) => {
      chat.on('message', () => {
        started();
        return new Promise<void>((resolve) => {
          finish = resolve;
        });
      });
    });
    server.push(message('m1'));
    await handling;
    const waiting = new Promise<void>((resolve) => chat.on('status', ({ state }) => state === 'waiting' && resolve()));
    server.cut();
    await waiting;
    finish();
    await until(() => confirmed('delivered').length === 1);
    expect(server.heard[0]?.connection).toBe(2);
  });

  test('what arrives after close is neither shown nor said to be confirmed', async () => {
    const traced: string[] = [];
    const chat = await open({ onTrace: (entry) => traced.push(entry.kind) });
    const shown: string[] = [];
    const closing = new Promise<void>((resolve) =>
      chat.on('message', ({ serverMessageId }) => {
        shown.push(serverMessageId);
        if (shown.length === 1) resolve(Promise.resolve().then(() => chat.close()));
      }),
    );
    server.push(...Array.from({ length: 50 }, (_, i) => message(`m${i}`)));
    await closing;
    await until(() => confirmed('delivered').length > 0);
    expect(confirmed('delivered')).toEqual(shown);
    expect(traced.filter((kind) => kind === 'in')).toHaveLength(shown.length);
  });

  test('close sends the confirmations that are due', async () => {
    const chat = await open();
    chat.on('message', () => undefined);
    const shown = new Promise<void>((resolve) => chat.on('message', () => resolve()));
    server.push(message('m1'));
    await shown;
    await chat.close();
    await until(() => confirmed('delivered').length === 1);
  });
});

describe('the connection', () => {
  async function ended(chat: Chat): Promise<ConnectionStatus> {
    return new Promise((resolve) =>
      chat.on('status', (status) => {
        if (status.state === 'closed') resolve(status);
      }),
    );
  }

  test.each(['unauthenticated', 'permission_denied', 'not_found', 'resource_exhausted', 'unavailable'])(
    'a first connection refused with %s rejects',
    async (code) => {
      server.refuseWith = () => code;
      await expect(connect({ url: server.url, token })).rejects.toMatchObject({ name: 'ChatError', code });
      expect(server.tokens).toEqual([token]);
    },
  );

  test.each(['unauthenticated', 'permission_denied', 'not_found'])('refused later with %s it ends', async (code) => {
    const chat = await open();
    server.refuseWith = () => code;
    const end = ended(chat);
    server.cut();
    await expect(end).resolves.toMatchObject({ error: { code } });
  });

  const elsewhere = JSON.stringify({ error: { code: 'forbidden', message: 'by a gateway' } });
  test.each([
    [404, '<html>Not Found</html>'],
    [408, ''],
    [403, 'Forbidden'],
    [401, '{"message":"log in to the network"}'],
    [401, '{"error":{"code":401,"message":"of another API"}}'],
    [403, elsewhere],
    [502, '<html>Bad Gateway</html>'],
    [302, ''],
  ])('what a proxy answers (%i %s) is not taken for the word of the server: it comes back', async (status, body) => {
    const chat = await open({ maxRetryDelayMs: 1 });
    const states: string[] = [];
    chat.on('status', ({ state }) => states.push(state));
    server.refuseWith = () => (server.tokens.length < 4 ? { status, body } : undefined);
    server.cut();
    await until(() => server.connections === 2);
    expect(server.tokens).toHaveLength(4);
    expect(states).not.toContain('closed');
  });

  test('a server that is not there rejects with unavailable', async () => {
    await expect(connect({ url: 'ws://127.0.0.1:1', token })).rejects.toMatchObject({ code: 'unavailable' });
  });

  test('a token that is no JWT rejects without a connection', async () => {
    await expect(connect({ url: server.url, token: 'x' })).rejects.toMatchObject({ code: 'invalid_argument' });
    expect(server.tokens).toEqual([]);
  });

  test.each([
    [4401, 'unauthenticated'],
    [4403, 'permission_denied'],
    [4409, 'aborted'],
  ])('after close code %i it does not come back by itself', async (code, error) => {
    const chat = await open();
    const end = ended(chat);
    server.closeWith(code);
    await expect(end).resolves.toMatchObject({ error: { code: error } });
    expect(server.connections).toBe(1);
  });

  test.each([1001, 1008, 1013, 4408])('after close code %i it comes back', async (code) => {
    await open();
    server.closeWith(code);
    await until(() => server.connections === 2);
  });

  test('an expired token is replaced by a fresh one from its source, and without one the client ends', async () => {
    const fresh = fakeToken(ada, randomUUID(), 'fresh');
    const tokens = [token, fresh];
    const chat = await open({ token: () => tokens.shift() ?? fresh });
    server.closeWith(4401);
    await until(() => server.connections === 2);
    expect(server.tokens).toEqual([token, fresh]);
    const end = ended(chat);
    server.closeWith(4401);
    await expect(end).resolves.toMatchObject({ error: { code: 'unauthenticated' } });
    expect(server.connections).toBe(2);
  });

  test('a fresh token goes to the server and is used for later connections', async () => {
    const chat = await open();
    const fresh = fakeToken(ada, randomUUID(), 'fresh');
    chat.authenticate(fresh);
    await until(() => server.heard.length === 1);
    expect(server.heard[0]?.frame).toEqual({ auth: { token: fresh } });
    server.cut();
    await until(() => server.connections === 2);
    expect(server.tokens).toEqual([token, fresh]);
  });

  test('it comes back after the delay that going_away names', async () => {
    const chat = await open();
    const waiting = new Promise<ConnectionStatus>((resolve) =>
      chat.on('status', (status) => {
        if (status.state === 'waiting') resolve(status);
      }),
    );
    server.push({ going_away: { reconnect_after_ms: 30 } });
    server.closeWith(1001);
    await expect(waiting).resolves.toMatchObject({ retryInMs: 30 });
    await until(() => server.connections === 2);
  });

  test('close during the wait for a reconnect ends it at once', async () => {
    const chat = await open();
    const waiting = new Promise<void>((resolve) => chat.on('status', ({ state }) => state === 'waiting' && resolve()));
    server.push({ going_away: { reconnect_after_ms: 60_000 } });
    server.closeWith(1001);
    await waiting;
    await chat.close();
    expect(server.connections).toBe(1);
  });

  test('a handler that throws is told as an error and does not stop the reconnect', async () => {
    const chat = await open();
    const errors: string[] = [];
    chat.on('error', ({ code }) => errors.push(code));
    chat.on('status', () => {
      throw new Error('bug in the app');
    });
    chat.on('caught_up', () => Promise.reject(new Error('another')));
    server.push({ caught_up: true });
    await until(() => errors.length === 1);
    server.cut();
    await until(() => server.connections === 2);
    expect(new Set(errors)).toEqual(new Set(['handler_failed']));
  });

  test('unknown frames and fields are ignored', async () => {
    const chat = await open();
    const shown: Message[] = [];
    chat.on('message', (m) => shown.push(m));
    server.push(
      { heartbeat: {} } as unknown as ServerFrame,
      [] as unknown as ServerFrame,
      null as unknown as ServerFrame,
      { ...message('m1'), priority: 7 } as unknown as ServerFrame,
    );
    await until(() => shown.length === 1);
    expect(shown[0]).not.toHaveProperty('priority');
  });
});
