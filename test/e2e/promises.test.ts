import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { SECRET } from '../devices.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

/** Section 2 of the wire contract, "Promises", by number. */
describe('the promises of the wire contract', () => {
  let mesh: TestMesh;

  beforeAll(async () => {
    mesh = await TestMesh.start({ env: { AUTH_HS256_SECRET: SECRET } });
  });
  afterAll(async () => {
    await mesh[Symbol.asyncDispose]();
  });

  async function pair() {
    const [ada, bob] = await mesh.users(2);
    if (!ada || !bob) throw new Error('no users');
    return { ada, bob, a: await WireClient.connect(mesh.url, ada), b: await WireClient.connect(mesh.url, bob) };
  }

  test('2: a message goes to every device of its recipient until that device has confirmed it', async () => {
    const { ada, bob, a, b } = await pair();
    void ada;
    const id = a.message(bob, 'hello');
    const { server_message_id } = await a.answer(id);
    const message = await b.frame((f) => f.server_message_id === server_message_id && f.content, 'the message');
    expect(message).toMatchObject({ sender_id: ada.userId, content: 'hello' });
    // Unconfirmed: the next connection gets it again, under the same id.
    await b.close();
    const again = await WireClient.connect(mesh.url, bob);
    await again.frame((f) => f.server_message_id === server_message_id && f.content, 'the message again');
    again.confirm('delivered', server_message_id);
    await a.frame((f) => f.status === 'delivered' && f.server_message_id === server_message_id, 'the receipt');
    await again.close();
    const last = await WireClient.connect(mesh.url, bob);
    await last.frame((f) => f.caught_up, 'caught_up');
    expect(last.messages).toEqual([]);
  });

  test('2: what is sent to a device that has never connected waits for it, in order', async () => {
    const { ada, bob, a, b } = await pair();
    await b.close();
    const ids = ['one', 'two', 'three'].map((text) => a.message(bob, text));
    for (const id of ids) await a.answer(id);
    const late = await WireClient.connect(mesh.url, bob);
    await late.frame((f) => f.caught_up, 'caught_up');
    expect(late.messages.map((m) => m.content)).toEqual(['one', 'two', 'three']);
    void ada;
  });

  test('3: first transmissions keep the order of acceptance, and a backlog comes before anything newer', async () => {
    const { bob, a, b } = await pair();
    await b.close();
    const texts = Array.from({ length: 700 }, (_, i) => `n${i}`);
    for (const text of texts) a.message(bob, text);
    await until(() => a.frames.filter((f) => f.status === 'sent').length === 700, {
      what: '700 sent',
      timeoutMs: 40_000,
    });
    const timestamps = a.frames.filter((f) => f.status === 'sent').map((f) => f.timestamp);
    expect(timestamps).toEqual([...timestamps].sort());
    const back = await WireClient.connect(mesh.url, bob);
    back.socket.on('message', (data) => {
      const frame = JSON.parse(String(data));
      if (frame.content !== undefined) back.confirm('delivered', frame.server_message_id);
    });
    for (let i = 0; i < 100; i++) a.message(bob, `new${i}`);
    await until(() => back.messages.length >= 800, { what: '800 messages', timeoutMs: 40_000 });
    expect(back.messages.map((m) => m.content)).toEqual([
      ...texts,
      ...Array.from({ length: 100 }, (_, i) => `new${i}`),
    ]);
  });

  test('4: the same client_message_id gets the same answer again and causes no second delivery', async () => {
    const { bob, a, b } = await pair();
    const id = a.message(bob, 'once');
    const first = await a.answer(id);
    a.message(bob, 'once', id);
    const second = await a.frame((f) => f.deduplicated === true, 'the deduplicated answer');
    expect(second).toEqual({ ...first, deduplicated: true });
    b.confirm('read', first.server_message_id);
    const receipt = await a.frame((f) => f.status === 'read', 'the receipt');
    a.message(bob, 'once', id);
    await until(() => a.frames.filter((f) => f.status === 'read').length >= 2, {
      what: 'the status that follows a repeat',
    });
    expect(a.frames.filter((f) => f.status === 'read')[1]).toEqual(receipt);
    expect(b.messages).toHaveLength(1);
  });

  test('4: the same id with another content or recipient is already_exists', async () => {
    const { ada, bob, a } = await pair();
    const id = a.message(bob, 'one thing');
    await a.answer(id);
    a.message(bob, 'another thing', id);
    const content = await a.frame((f) => f.error?.code === 'already_exists', 'already_exists');
    expect(content.client_message_id).toBe(id);
    a.message(ada, 'one thing', id);
    await until(() => a.frames.filter((f) => f.error?.code === 'already_exists').length === 2, {
      what: 'already_exists for the recipient',
    });
  });

  test('5: delivered and read are each sent once, wait for an offline sender, and stop when acked', async () => {
    const { ada, bob, a, b } = await pair();
    const id = a.message(bob, 'hello');
    const { server_message_id } = await a.answer(id);
    await b.frame((f) => f.server_message_id === server_message_id, 'the message');
    await a.close();
    b.confirm('delivered', server_message_id);
    b.confirm('delivered', server_message_id);
    b.confirm('read', server_message_id);
    const back = await WireClient.connect(mesh.url, ada);
    const read = await back.frame((f) => f.status === 'read', 'read');
    const delivered = await back.frame((f) => f.status === 'delivered', 'delivered');
    expect(delivered).toMatchObject({ server_message_id, client_message_id: id });
    expect(back.frames.filter((f) => f.status === 'delivered')).toHaveLength(1);
    back.send({ ack: [read.event_id, delivered.event_id] });
    // A message after the acks: when it has been answered, the acks have been taken before it.
    await back.answer(back.message(bob, 'after'));
    await back.close();
    await until(
      async () => {
        const again = await WireClient.connect(mesh.url, ada);
        await again.frame((f) => f.caught_up, 'caught_up');
        const repeated = again.frames.filter((f) => f.event_id !== undefined).length;
        await again.close();
        return repeated === 0;
      },
      { what: 'no receipt after its ack' },
    );
  });

  test('5: read without an earlier delivered yields only read', async () => {
    const { bob, a, b } = await pair();
    const { server_message_id } = await a.answer(a.message(bob, 'hello'));
    await b.frame((f) => f.server_message_id === server_message_id, 'the message');
    b.confirm('read', server_message_id);
    await a.frame((f) => f.status === 'read', 'read');
    b.confirm('delivered', server_message_id);
    const next = await a.answer(a.message(bob, 'next'));
    await b.frame((f) => f.server_message_id === next.server_message_id, 'the next message');
    b.confirm('delivered', next.server_message_id);
    await a.frame(
      (f) => f.status === 'delivered' && f.server_message_id === next.server_message_id,
      'the next receipt',
    );
    expect(a.frames.filter((f) => f.server_message_id === server_message_id && f.status === 'delivered')).toEqual([]);
  });

  test('6: what an online device does not confirm is sent again, then its socket is closed with 1008 and the rest waits', async () => {
    const own = await TestMesh.start({ env: { DELIVERY_RETRY_MS: '300' } });
    try {
      const [ada, bob] = (await own.users(2)) as [TestUser, TestUser];
      const a = await WireClient.connect(own.url, ada);
      const b = await WireClient.connect(own.url, bob);
      const { server_message_id } = await a.answer(a.message(bob, 'ignored'));
      expect(await b.closed(15_000)).toBe(1008);
      expect(b.messages.filter((m) => m.server_message_id === server_message_id)).toHaveLength(4);
      const next = await WireClient.connect(own.url, bob);
      await next.frame((f) => f.server_message_id === server_message_id, 'the message on the next connection');
    } finally {
      await own[Symbol.asyncDispose]();
    }
  });

  test('7: at most 256 unconfirmed messages are in flight per device', async () => {
    const { ada, bob, a, b } = await pair();
    // A transmission may be repeated: what is in flight are messages.
    const inFlight = () => new Set(b.messages.map((m) => m.server_message_id));
    for (let i = 0; i < 1000; i++) a.message(bob, `n${i}`);
    await until(() => a.frames.filter((f) => f.status === 'sent').length === 1000, {
      what: () => `1000 sent, not ${JSON.stringify(a.frames.filter((f) => f.error).slice(-3))}`,
    });
    await until(() => inFlight().size === 256, { what: () => `256 messages, not ${inFlight().size}` });
    b.confirm('delivered', ...inFlight());
    await until(() => inFlight().size === 512, { what: () => `512 messages, not ${inFlight().size}` });
    // The window is full again: an answer that comes after it shows that nothing else did.
    await b.answer(b.message(ada, 'still here'));
    expect(inFlight().size).toBe(512);
  });

  test('8: the sender’s other devices get a copy with receiver_id, confirmed without a receipt', async () => {
    const { SignJWT } = await import('jose');
    const tokenOf = (userId: string, deviceId: string) =>
      new SignJWT({ did: deviceId })
        .setProtectedHeader({ alg: 'HS256' })
        .setSubject(userId)
        .setExpirationTime('1h')
        .sign(new TextEncoder().encode(SECRET));
    const connect = async (userId: string) => {
      const deviceId = randomUUID();
      const user = { userId, deviceId, contactNumber: '', token: await tokenOf(userId, deviceId) };
      return await WireClient.connect(mesh.url, user);
    };
    const ada = randomUUID();
    const bob = randomUUID();
    const phone = await connect(ada);
    const laptop = await connect(ada);
    const b = await connect(bob);
    const { server_message_id } = await phone.answer(phone.message(bob, 'from the phone'));
    const copy = await laptop.frame((f) => f.server_message_id === server_message_id, 'the copy');
    expect(copy).toMatchObject({ sender_id: ada, receiver_id: bob, content: 'from the phone' });
    laptop.confirm('read', server_message_id);
    const message = await b.frame((f) => f.server_message_id === server_message_id, 'the message');
    expect(message.receiver_id).toBeUndefined();
    b.confirm('delivered', server_message_id);
    for (const device of [phone, laptop])
      await device.frame((f) => f.status === 'delivered', 'the receipt at each device');
    expect(phone.frames.filter((f) => f.status === 'read' || f.content !== undefined)).toEqual([]);
    const own1 = await phone.answer(phone.message(ada, 'note to self'));
    const note = await laptop.frame((f) => f.server_message_id === own1.server_message_id, 'the note');
    expect(note.receiver_id).toBeUndefined();
  });

  // The last one: it kills the mesh of the others.
  test('1: what was answered with sent survives kill -9 of every process', async () => {
    const [ada, bob] = await mesh.users(2);
    if (!ada || !bob) throw new Error('no users');
    const a = await WireClient.connect(mesh.url, ada);
    const ids = Array.from({ length: 50 }, (_, i) => a.message(bob, `message ${i}`));
    await until(() => a.frames.filter((f) => f.status === 'sent').length > 10, { what: 'some sent' });
    await mesh.process('chat').end('SIGKILL');
    const accepted = ids.filter((id) => a.frames.some((f) => f.status === 'sent' && f.client_message_id === id));
    await mesh.process('chat').start();
    const b = await WireClient.connect(mesh.url, bob);
    await b.frame((f) => f.caught_up, 'caught_up');
    const serverIds = accepted.map((id) => a.frames.find((f) => f.client_message_id === id).server_message_id);
    const got = new Set(b.messages.map((m) => m.server_message_id));
    expect(serverIds.filter((id) => !got.has(id))).toEqual([]);
  });
});
