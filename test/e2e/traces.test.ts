import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { WireClient } from '../client.js';
import { Collector, type Span } from '../collector.js';
import { TestMesh, type TestUser, until } from '../mesh.js';

const attribute = (span: Span, key: string) => {
  const value = span.attributes.find((a) => a.key === key)?.value;
  return value?.stringValue ?? value?.intValue;
};

describe('a message that is followed', () => {
  let collector: Collector;
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;

  beforeAll(async () => {
    collector = await Collector.start();
    const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_TRACES_SAMPLER_ARG: '1', LOG_LEVEL: 'debug' };
    mesh = await TestMesh.start({ split: true, env });
    [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  }, 400_000);
  afterEach(() => {
    collector.spans.length = 0;
    collector.text = '';
  });
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    collector?.close();
  });

  /** A span by its name and an attribute, once it has come. */
  async function span(name: string, key?: string, value?: string): Promise<Span> {
    const find = () => collector.spans.find((s) => s.name === name && (!key || attribute(s, key) === value));
    await until(() => find() !== undefined, {
      what: () => `${name} ${key}=${value}; there are ${JSON.stringify(collector.spans.map((s) => s.name))}`,
    });
    return find() as Span;
  }

  test('leaves one trace through all services, from its frame to the receipt, and none of its content', async () => {
    const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
    await b.frame((f) => f.caught_up === true, 'the end of the backlog');
    const content = 'what nobody else may read';
    await a.answer(a.message(bob, content));
    const { server_message_id: id } = await b.frame((f) => f.content === content);
    b.confirm('delivered', id);
    const { event_id: receiptId } = await a.frame((f) => f.status === 'delivered');
    a.send({ ack: [receiptId] });

    const receive = await span('edge.receive');
    const accept = await span('chat.accept');
    const publish = await span('log.publish');
    const deliver = await span('chat.deliver', 'chatmesh.event', 'message');
    const transmit = await span('edge.transmit', 'chatmesh.event', 'message');
    const confirm = await span('chat.confirm');
    const deliverReceipt = await span('chat.deliver', 'chatmesh.event', 'receipt');
    const transmitReceipt = await span('edge.transmit', 'chatmesh.event', 'receipt');

    const all = [receive, accept, publish, deliver, transmit, confirm, deliverReceipt, transmitReceipt];
    expect(new Set(all.map((s) => s.traceId)).size).toBe(1);
    expect(receive.parentSpanId ?? '').toBe('');
    for (const [child, parent] of [
      [accept, receive],
      [publish, accept],
      [deliver, accept],
      [transmit, deliver],
      [confirm, accept],
      [deliverReceipt, confirm],
      [transmitReceipt, deliverReceipt],
    ] as const)
      expect(`${child.name} of ${child.parentSpanId}`).toBe(`${child.name} of ${parent.spanId}`);
    for (const s of all) {
      expect(BigInt(s.endTimeUnixNano) >= BigInt(s.startTimeUnixNano)).toBe(true);
      expect(s.status.code ?? 0).toBe(0);
    }
    for (const s of [receive, accept, deliver, confirm]) expect(attribute(s, 'chatmesh.server_message_id')).toBe(id);
    expect(attribute(deliver, 'chatmesh.device_id')).toBe(bob.deviceId);
    expect(attribute(accept, 'chatmesh.result')).toBe('accepted');
    expect(attribute(confirm, 'chatmesh.status')).toBe('delivered');
    const printed = collector.text + mesh.processes.map((p) => p.output).join('');
    for (const secret of [content, Buffer.from(content).toString('base64'), ada.token, bob.token])
      expect(printed).not.toContain(secret);
    await Promise.all([a.close(), b.close()]);
  });

  test('keeps its trace while it waits in the inbox', async () => {
    const a = await WireClient.connect(mesh.url, ada);
    await a.answer(a.message(bob, 'for later'));
    const receive = await span('edge.receive');
    const b = await WireClient.connect(mesh.url, bob);
    const { server_message_id: id } = await b.frame((f) => f.content === 'for later');
    b.confirm('read', id);
    expect((await span('chat.deliver', 'chatmesh.from', 'inbox')).traceId).toBe(receive.traceId);
    expect((await span('edge.transmit', 'chatmesh.event', 'receipt')).traceId).toBe(receive.traceId);
    await Promise.all([a.close(), b.close()]);
  });

  test('ends as failed where it is refused', async () => {
    const a = await WireClient.connect(mesh.url, ada);
    const nobody = '00000000-0000-4000-8000-000000000000';
    await a.answer(a.message(nobody, 'hello?'));
    const accept = await span('chat.accept', 'chatmesh.result', 'not_found');
    expect(accept.status.code).toBe(2);
    expect((await span('edge.receive')).traceId).toBe(accept.traceId);
    await a.close();
  });
});

test('a collector that takes nothing costs a line in the log, and no message', async () => {
  const collector = await Collector.start();
  collector.status = 400;
  const env = { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_TRACES_SAMPLER_ARG: '1' };
  await using mesh = await TestMesh.start({ env });
  const [ada, bob] = (await mesh.users(2)) as [TestUser, TestUser];
  const [a, b] = [await WireClient.connect(mesh.url, ada), await WireClient.connect(mesh.url, bob)];
  await a.answer(a.message(bob, 'hello'));
  await b.frame((f) => f.content === 'hello');
  await until(() => mesh.process('edge').output.includes('spans were not sent'), { what: 'the line' });
  expect(await mesh.process('edge').end('SIGTERM')).toBe(0);
  collector.close();
});
