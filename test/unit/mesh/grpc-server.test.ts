import { once } from 'node:events';
import { connect } from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromBinary } from '@bufbuild/protobuf';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { createClient, GrpcServer, type MeshError, PortInUseError } from '@chatmesh/mesh';
import { Client, credentials } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { REPORT, type World, world } from './grpc-support.js';
import { gate, memoryLogger, until } from './support.js';

const same = (bytes: Buffer) => bytes;

/** A protobuf field of text, bytes or a nested message, encoded by hand: the wire is checked without our descriptors. */
function text(number: number, value: string | Buffer): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.from([(number << 3) | 2, bytes.length]), bytes]);
}

/** Fields of a message by number, of those that are text, bytes, nested messages or small numbers. */
function fields(bytes: Uint8Array): Map<number, (Uint8Array | number)[]> {
  const reader = new BinaryReader(bytes);
  const found = new Map<number, (Uint8Array | number)[]>();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    const value = type === 2 ? reader.bytes() : reader.int32();
    found.set(number, [...(found.get(number) ?? []), value]);
  }
  return found;
}

let w: World;
let bare: Client;
beforeEach(() => {
  bare = undefined as never;
});
afterEach(async () => {
  bare?.close();
  await w.close();
});

function dial(): Client {
  bare = new Client(w.address, credentials.createInsecure());
  return bare;
}

function unary(path: string, request: Buffer): Promise<{ code: number; bytes?: Buffer }> {
  return new Promise((resolve) => {
    bare.makeUnaryRequest(path, same, same, request, (error, bytes) =>
      resolve(error ? { code: error.code } : { code: 0, bytes: bytes as Buffer }),
    );
  });
}

describe('health', () => {
  test('every service and the whole server are serving, others are not known', async () => {
    w = await world();
    dial();
    for (const name of ['', 'presence.v1.SessionService', 'chat.v1.RouterService', 'grpc.health.v1.Health']) {
      const { bytes } = await unary('/grpc.health.v1.Health/Check', name ? text(1, name) : Buffer.alloc(0));
      expect(fields(bytes as Buffer).get(1)).toEqual([1]);
    }
    expect(await unary('/grpc.health.v1.Health/Check', text(1, 'x.v1.Y'))).toEqual({ code: 5 });
  });

  test('whoever watches hears of the drain, and does not hold it up', async () => {
    w = await world();
    const watch = dial().makeServerStreamRequest('/grpc.health.v1.Health/Watch', same, same, Buffer.alloc(0));
    const statuses: unknown[] = [];
    watch.on('error', () => {});
    watch.on('data', (bytes: Buffer) => statuses.push(fields(bytes).get(1)?.[0]));
    await until(() => statuses.length === 1);
    await w.server.drain(60_000);
    expect(statuses).toEqual([1, 2]);
  });
});

describe('reflection', () => {
  /** Asks one question on a stream of its own; gives the fields of the answer. */
  async function ask(version: string, question: Buffer): Promise<Map<number, (Uint8Array | number)[]>> {
    const stream = bare.makeBidiStreamRequest(
      `/grpc.reflection.${version}.ServerReflection/ServerReflectionInfo`,
      same,
      same,
    );
    const answer = new Promise<Buffer>((resolve, reject) => stream.once('data', resolve).once('error', reject));
    stream.write(question);
    const found = fields(await answer);
    stream.end();
    return found;
  }

  test.each(['v1', 'v1alpha'])('%s lists the services', async (version) => {
    w = await world();
    dial();
    const list = fields((await ask(version, text(7, '*'))).get(6)?.[0] as Uint8Array).get(1) as Uint8Array[];
    const names = list.map((entry) => Buffer.from(fields(entry).get(1)?.[0] as Uint8Array).toString());
    expect(names).toEqual(
      expect.arrayContaining([
        'presence.v1.SessionService',
        'chat.v1.RouterService',
        'grpc.health.v1.Health',
        `grpc.reflection.${version}.ServerReflection`,
      ]),
    );
  });

  test('a service, a method, a message and a file name lead to the file, with all that it imports', async () => {
    w = await world();
    dial();
    const questions = [
      text(4, 'chat.v1.RouterService'),
      text(4, 'chat.v1.RouterService.Route'),
      text(4, 'chat.v1.Submit'),
      text(3, 'chat/v1/router.proto'),
    ];
    for (const question of questions) {
      const answer = (await ask('v1', question)).get(4)?.[0] as Uint8Array;
      const files = (fields(answer).get(1) as Uint8Array[]).map((bytes) =>
        fromBinary(FileDescriptorProtoSchema, bytes),
      );
      expect(files[0]?.name).toBe('chat/v1/router.proto');
      const known = new Set(files.map(({ name }) => name));
      for (const file of files) for (const dependency of file.dependency) expect(known).toContain(dependency);
    }
  });

  test('the rules are found as the extensions that they are', async () => {
    w = await world();
    dial();
    const options = 'google.protobuf.FieldOptions';
    const numbers = fields((await ask('v1', text(6, options))).get(5)?.[0] as Uint8Array).get(2);
    expect(new BinaryReader(numbers?.[0] as Uint8Array).int32()).toBe(1159);
    const extension = Buffer.concat([text(1, options), Buffer.from([0x10, 0x87, 0x09])]);
    expect((await ask('v1', text(5, extension))).has(4)).toBe(true);
  });

  test('what is not known is answered by an error, and the stream goes on', async () => {
    w = await world();
    const stream = dial().makeBidiStreamRequest(
      '/grpc.reflection.v1.ServerReflection/ServerReflectionInfo',
      same,
      same,
    );
    const answers: Map<number, (Uint8Array | number)[]>[] = [];
    stream.on('data', (bytes: Buffer) => answers.push(fields(bytes)));
    for (const question of [text(4, 'x.Y'), text(3, 'x.proto'), text(6, 'x.Y'), Buffer.alloc(0), text(7, '*')])
      stream.write(question);
    await until(() => answers.length === 5);
    const codes = answers.slice(0, 4).map((answer) => fields(answer.get(7)?.[0] as Uint8Array).get(1)?.[0]);
    expect(codes).toEqual([5, 5, 5, 12]);
    expect(answers[4]?.has(6)).toBe(true);
    stream.end();
    await once(stream, 'end');
  });
});

describe('a drain', () => {
  test('lets calls finish, takes no new ones, and ends by itself', async () => {
    const entered = gate();
    const finish = gate();
    w = await world({
      report: async () => {
        entered.open();
        await finish.promise;
        return { unknownEdge: true };
      },
    });
    const call = w.sessions.report(REPORT);
    await entered.promise;
    let drained = false;
    const draining = w.server.drain(60_000).then(() => {
      drained = true;
    });
    await until(() => drained === false);
    await expect(w.sessions.report(REPORT)).rejects.toMatchObject({ kind: 'unavailable' });
    expect(drained).toBe(false);
    finish.open();
    expect(await call).toMatchObject({ unknownEdge: true });
    await draining;
  });

  test('ends what is left at its deadline as unavailable, and tells the handlers', async () => {
    const reasons: unknown[] = [];
    const closes: unknown[] = [];
    const entered = gate();
    w = await world({
      report: (_request, { signal }) => {
        signal.addEventListener('abort', () => reasons.push((signal.reason as MeshError).kind));
        entered.open();
        return new Promise(() => {});
      },
      route(call) {
        call.onMessage(() => call.write({}));
        call.onClose((error) => closes.push(error?.kind));
      },
    });
    const heard = gate();
    const call = w.router.route();
    call.onMessage(() => heard.open());
    call.onClose((error) => closes.push(error?.kind));
    call.write({});
    const report = w.sessions.report(REPORT);
    report.catch(() => {});
    await Promise.all([heard.promise, entered.promise]);
    await w.server.drain(50);
    await expect(report).rejects.toMatchObject({ kind: 'unavailable' });
    await until(() => closes.length === 2);
    expect(closes).toEqual(['unavailable', 'unavailable']);
    expect(reasons).toEqual(['unavailable']);
  });

  test('is cut short by the close', async () => {
    const entered = gate();
    w = await world({
      report: () => {
        entered.open();
        return new Promise(() => {});
      },
    });
    const report = w.sessions.report(REPORT);
    report.catch(() => {});
    await entered.promise;
    const draining = w.server.drain(600_000);
    await w.server.close();
    await draining;
    await expect(report).rejects.toMatchObject({ kind: 'unavailable' });
  });
});

describe('a close', () => {
  test('waits for the handlers of the calls that it ends', async () => {
    const entered = gate();
    const order: string[] = [];
    w = await world({
      handlersMs: 600_000,
      report: async (_request, { signal }) => {
        entered.open();
        await once(signal, 'abort');
        order.push('ended');
        // Longer than connections get to take leave.
        await sleep(400);
        order.push('handled');
        return {};
      },
    });
    const report = w.sessions.report(REPORT).catch(({ kind }) => order.push(kind));
    await entered.promise;
    await w.server.close();
    order.push('closed');
    await report;
    expect(order).toEqual(['ended', 'unavailable', 'handled', 'closed']);
  });

  test('waits no longer than it may for a handler that does not end', async () => {
    const entered = gate();
    w = await world({
      handlersMs: 50,
      report: () => {
        entered.open();
        return new Promise(() => {});
      },
    });
    w.sessions.report(REPORT).catch(() => {});
    await entered.promise;
    await w.server.close();
  });
});

describe('the ends of a connection', () => {
  test('a port in use is reported by variable and port', async () => {
    w = await world();
    const { logger } = memoryLogger();
    const second = new GrpcServer({ name: 'second', logger, metrics: w.metrics });
    const error = await second.listen({ host: '127.0.0.1', port: w.port, variable: 'CHAT_PORT' }).catch((e) => e);
    expect(error).toBeInstanceOf(PortInUseError);
    expect(error.message).toBe(`CHAT_PORT=${w.port} is in use by another process; set CHAT_PORT to a free port`);
    await second.close();
  });

  test('a server lets clients have 8 MiB in flight, on streams and on the connection', async () => {
    w = await world();
    const session = connect(`http://${w.address}`);
    const windows = () => [session.remoteSettings.initialWindowSize, session.state.remoteWindowSize];
    await until(() => windows().every((bytes) => bytes === 8 * 1024 * 1024));
    session.destroy();
  });

  test('clients of one address share a connection', async () => {
    const peers: string[] = [];
    w = await world({
      report: async (_request, { peer }) => {
        peers.push(peer);
        return {};
      },
    });
    const others = [1, 2, 3].map(() => createClient(SessionService, { address: w.address }));
    for (const client of [w.sessions, ...others]) await client.report(REPORT);
    expect(new Set(peers).size).toBe(1);
    // One that is closed takes nothing from the others.
    others[0]?.close();
    await others[1]?.report(REPORT);
    for (const client of others.slice(1)) client.close();
  });

  test('a client finds its server again after a restart', async () => {
    w = await world({ report: async () => ({}) });
    const client = createClient(SessionService, { address: w.address });
    await client.report(REPORT);
    await w.server.close();
    await expect(client.report(REPORT)).rejects.toMatchObject({ kind: 'unavailable' });
    const { logger } = memoryLogger();
    const next = new GrpcServer({ name: 'next', logger, metrics: w.metrics });
    next.add(SessionService, { report: async () => ({ unknownEdge: true }), listSessions: async () => ({}) });
    await next.listen({ host: '127.0.0.1', port: w.port, variable: 'TEST_PORT' });
    await client.waitForReady(10_000);
    expect((await client.report(REPORT)).unknownEdge).toBe(true);
    client.close();
    await next.close();
  });

  test('waiting for a server that does not come ends as unavailable', async () => {
    w = await world();
    await w.server.close();
    const client = createClient(RouterService, { address: w.address });
    await expect(client.waitForReady(100)).rejects.toMatchObject({ kind: 'unavailable' });
    client.close();
  });
});

describe('a request that is never finished', () => {
  const paths = {
    unary: '/presence.v1.SessionService/ListSessions',
    'a stream of answers': '/chat.v1.ChatService/Receive',
    'not served': '/no.such.Service/Method',
  };

  test.each(Object.entries(paths))('%s: ends', async (_, path) => {
    w = await world({ requestMs: 200 });
    const session = connect(`http://${w.address}`);
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => {}).resume();
    let closed = false;
    stream.on('close', () => {
      closed = true;
    });
    stream.write(Buffer.from([0, 0]));
    await until(() => closed);
    session.destroy();
  });

  test('a stream in both directions goes on, and there are no more than 1,000 on a connection', async () => {
    let closed = false;
    w = await world({
      requestMs: 100,
      route: (call) =>
        new Promise((resolve) => {
          call.onClose(() => {
            closed = true;
            resolve();
          });
        }),
    });
    const session = connect(`http://${w.address}`);
    await once(session, 'remoteSettings');
    expect(session.remoteSettings.maxConcurrentStreams).toBe(1_000);
    const path = '/chat.v1.RouterService/Route';
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.on('error', () => {});
    stream.resume();
    // Another one, begun later and no stream, ends first.
    const other = session.request({ ':method': 'POST', ':path': paths.unary, 'content-type': 'application/grpc' });
    other.on('error', () => {}).resume();
    await until(() => other.closed);
    expect(closed).toBe(false);
    stream.close();
    await until(() => closed);
    session.destroy();
  });
});
