import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { create } from '@bufbuild/protobuf';
import { type RouteRequest, RouteRequestSchema, type RouteResponse, RouterService } from '@chatmesh/gen/chat/v1/router';
import { type BidiCall, createClient, MeshError } from '@chatmesh/mesh';
import { afterEach, describe, expect, test } from '@jest/globals';
import { REPORT, type World, world } from './grpc-support.js';
import { gate, until } from './support.js';

type ServerSide = BidiCall<RouteRequest, RouteResponse>;

let w: World | undefined;
let child: ChildProcess | undefined;
afterEach(async () => {
  await w?.close();
  w = undefined;
  if (child && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  child = undefined;
});

/** A server whose calls can be played from both sides; `closes` collects every call of onClose. */
async function pair() {
  const accepted = gate<ServerSide>();
  const closes: { side: string; kind: string | undefined; message: string | undefined }[] = [];
  const received: number[] = [];
  const signals: AbortSignal[] = [];
  const watch = (side: string) => (error?: MeshError) =>
    closes.push({ side, kind: error?.kind, message: error?.message });
  w = await world({
    report: async () => ({}),
    route(call, ctx) {
      signals.push(ctx.signal);
      call.onMessage(({ sequence }) => received.push(sequence));
      call.onClose(watch('server'));
      accepted.open(call as ServerSide);
    },
  });
  const client = w.router.route();
  const answers: number[] = [];
  client.onMessage(({ confirmedSequence }) => answers.push(confirmedSequence));
  client.onClose(watch('client'));
  client.write({ sequence: 1 });
  const server = await accepted.promise;
  await until(() => received.length === 1);
  /** How each side was closed, client first; each exactly once. */
  const bothClosed = async () => {
    await until(() => closes.length >= 2);
    // Whatever else would be called has been by the time another call has come and gone on the same connection.
    await w?.sessions.report(REPORT);
    expect(closes.map(({ side }) => side).sort()).toEqual(['client', 'server']);
    return closes.sort((a, b) => (a.side < b.side ? -1 : 1)).map(({ kind }) => kind);
  };
  return { client, server, closes, received, answers, signals, bothClosed };
}

/** Runs a program with the mesh at hand in a process of its own, and gives its first line. */
async function run(program: string, ...args: string[]): Promise<string> {
  const resolve = createRequire(import.meta.url).resolve;
  const imports = `
    const { createClient, createLogger, GrpcServer, Metrics } = await import(${JSON.stringify(pathToFileURL(resolve('@chatmesh/mesh')).href)});
    const { RouterService } = await import(${JSON.stringify(pathToFileURL(resolve('@chatmesh/gen/chat/v1/router')).href)});
  `;
  child = spawn(process.execPath, ['--input-type=module', '-e', imports + program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout as NodeJS.ReadableStream, 'data')) as [Buffer];
  return line.toString().trim();
}

describe('a bidirectional stream', () => {
  test('carries messages in order in both directions, created ones and what they are made of', async () => {
    const { client, server, received, answers } = await pair();
    for (let i = 2; i <= 300; i++) client.write(i % 2 ? { sequence: i } : create(RouteRequestSchema, { sequence: i }));
    for (let i = 1; i <= 300; i++) server.write({ confirmedSequence: i } as RouteResponse);
    const numbers = Array.from({ length: 300 }, (_, i) => i + 1);
    await until(() => received.length === 300 && answers.length === 300);
    expect(received).toEqual(numbers);
    expect(answers).toEqual(numbers);
  });

  test('ended by the client closes once on both sides without an error', async () => {
    const { client, server, signals, bothClosed } = await pair();
    client.end();
    client.end();
    expect(client.closed).toBe(true);
    expect(client.write({ sequence: 9 })).toBe(false);
    expect(await bothClosed()).toEqual([undefined, undefined]);
    expect(server.closed).toBe(true);
    expect(signals[0]?.aborted).toBe(true);
  });

  test('ended by the client brings everything that was written before', async () => {
    const { client, received, closes } = await pair();
    for (let i = 2; i <= 500; i++) client.write({ sequence: i });
    client.end();
    await until(() => closes.length === 2);
    expect(received).toHaveLength(500);
  });

  test('ended by the server brings everything that was written before, then closes once on both sides', async () => {
    const { server, answers, bothClosed } = await pair();
    for (let i = 0; i < 500; i++) server.write({ confirmedSequence: i } as RouteResponse);
    server.end();
    expect(server.write({} as RouteResponse)).toBe(false);
    expect(await bothClosed()).toEqual([undefined, undefined]);
    expect(answers).toHaveLength(500);
  });

  test('ended by the server with an error brings it to the client', async () => {
    const { server, closes, answers, bothClosed } = await pair();
    server.write({ confirmedSequence: 1 } as RouteResponse);
    server.end(new MeshError('aborted', 'another router has it'));
    expect(await bothClosed()).toEqual(['aborted', 'aborted']);
    expect(closes.find(({ side }) => side === 'client')?.message).toBe('another router has it');
    expect(answers).toEqual([1]);
  });

  test('given up by the client with an error is cancelled at the server', async () => {
    const { client, bothClosed } = await pair();
    client.end(new MeshError('failed_precondition', 'confused'));
    expect(await bothClosed()).toEqual(['failed_precondition', 'cancelled']);
  });

  test('ends on both sides when both end at once', async () => {
    const { client, server, bothClosed } = await pair();
    client.end();
    server.end();
    expect(await bothClosed()).toEqual([undefined, undefined]);
  });

  test('tells of the close also whoever asks late', async () => {
    const { client, closes } = await pair();
    client.end(new MeshError('aborted', 'x'));
    await until(() => closes.length === 2);
    const call = (w as World).router.route();
    call.end(new MeshError('aborted', 'y'));
    await (w as World).sessions.report(REPORT);
    const late = gate<MeshError | undefined>();
    call.onClose(late.open);
    expect((await late.promise)?.message).toBe('y');
  });

  test('ends with internal when a handler throws, and with the MeshError that it throws', async () => {
    w = await world({
      route(call) {
        call.onMessage(({ sequence }) => {
          throw sequence === 1 ? new Error('bug') : new MeshError('invalid_argument', 'no hello');
        });
      },
    });
    const kinds: (string | undefined)[] = [];
    for (const sequence of [1, 2]) {
      const call = w.router.route();
      call.write({ sequence });
      await new Promise<void>((resolve) => {
        call.onClose((error) => {
          kinds.push(error?.kind);
          resolve();
        });
      });
    }
    expect(kinds).toEqual(['internal', 'invalid_argument']);
    expect(JSON.stringify(w.lines)).toContain('bug');
  });

  test('ends with the error of a handler that fails before it listens', async () => {
    w = await world({ route: () => Promise.reject(new MeshError('permission_denied', 'not you')) });
    const call = w.router.route();
    const closed = gate<MeshError | undefined>();
    call.onClose(closed.open);
    expect(await closed.promise).toMatchObject({ kind: 'permission_denied', message: 'not you' });
  });

  test('ends by its signal and by its deadline', async () => {
    const kinds: (string | undefined)[] = [];
    w = await world({
      route(call) {
        call.onMessage(() => {});
        call.onClose((error) => kinds.push(error?.kind));
      },
    });
    const stop = new AbortController();
    const given = w.router.route({ signal: stop.signal });
    const late = w.router.route({ deadlineMs: 50 });
    const closes: (string | undefined)[] = [];
    for (const call of [given, late]) {
      call.onMessage(() => {});
      call.onClose((error) => closes.push(error?.kind));
      call.write({});
    }
    await until(() => closes.length === 1);
    stop.abort();
    await until(() => closes.length === 2 && kinds.length === 2);
    expect(closes).toEqual(['deadline_exceeded', 'cancelled']);
    // The server counts the deadline from the arrival of the call, so the client's reset may come before it has passed.
    expect(kinds).toContain('cancelled');
    expect(kinds.filter((kind) => kind !== 'cancelled' && kind !== 'deadline_exceeded')).toEqual([]);
  });

  test('held back by the reader tells the writer to stop, and to go on after', async () => {
    const { client, server, received } = await pair();
    server.pause();
    const payload = new Uint8Array(1024 * 1024);
    let written = 1;
    while (client.write({ sequence: ++written, submits: [{ payload }] })) expect(written).toBeLessThan(1000);
    const drained = gate();
    client.onDrain(drained.open);
    // The windows hold some frames and the writer's buffer a few; it must not take the rest.
    let before = -1;
    while (before !== written) {
      before = written;
      await new Promise((resolve) => setTimeout(resolve, 100));
      if (client.write({ sequence: written + 1, submits: [{ payload }] })) written++;
      else {
        written++;
        break;
      }
    }
    expect(written).toBeLessThan(60);
    server.resume();
    await drained.promise;
    await until(() => received.length === written);
    expect(received).toEqual(Array.from({ length: written }, (_, i) => i + 1));
  });

  test('a message over the limit ends the call instead of breaking it', async () => {
    const { client, bothClosed } = await pair();
    expect(client.write({ submits: [{ payload: new Uint8Array(17 * 1024 * 1024) }] })).toBe(false);
    expect(await bothClosed()).toEqual(['resource_exhausted', 'cancelled']);
  });
});

describe('the death of a peer', () => {
  test('a killed server closes the call at the client once, as unavailable', async () => {
    const address = await run(`
      const logger = createLogger({ name: 'x', level: 'silent' });
      const server = new GrpcServer({ name: 'x', logger, metrics: new Metrics() });
      server.add(RouterService, { route(call) { call.onMessage(() => call.write({ confirmedSequence: 1 })); } });
      console.log('127.0.0.1:' + (await server.listen({ host: '127.0.0.1', port: 0, variable: 'X' })));
    `);
    const client = createClient(RouterService, { address });
    const call = client.route();
    const closes: (string | undefined)[] = [];
    const heard = gate();
    call.onMessage(() => heard.open());
    call.onClose((error) => closes.push(error?.kind));
    call.write({});
    await heard.promise;
    child?.kill('SIGKILL');
    await until(() => closes.length > 0);
    // The next call fails for itself; by then nothing is left to be said about the first.
    const next = gate<MeshError | undefined>();
    client.route().onClose(next.open);
    expect((await next.promise)?.kind).toBe('unavailable');
    expect(closes).toEqual(['unavailable']);
    expect(call.closed).toBe(true);
    client.close();
  });

  test('a killed client closes the call at the server once, as cancelled', async () => {
    const closes: (string | undefined)[] = [];
    w = await world({
      route(call) {
        call.onMessage(() => call.write({ confirmedSequence: 1 }));
        call.onClose((error) => closes.push(error?.kind));
      },
    });
    await run(
      `const call = createClient(RouterService, { address: process.argv[1] }).route();
       call.onMessage(() => console.log('heard'));
       call.write({});`,
      w.address,
    );
    child?.kill('SIGKILL');
    await until(() => closes.length > 0);
    expect(closes).toEqual(['cancelled']);
  });
});
