import { randomInt, randomUUID } from 'node:crypto';
import { create, toBinary } from '@bufbuild/protobuf';
import { ConnectRequestSchema, GetStatusRequestSchema } from '@chatmesh/gen/chat/v1/chat';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { WireClient } from '../client.js';
import { repeats } from '../long.js';
import { TestMesh, type TestUser, until } from '../mesh.js';
import { checkConnectStream, checkGrpc, grpcWeb, H2Client, raw, Thrower, unary } from './doors.js';
import * as inputs from './inputs.js';

const SEED = process.env.FUZZ_SEED === undefined ? randomInt(2 ** 31) : Number(process.env.FUZZ_SEED);
/** One less than the bad frames in a row that close a socket. */
const BATCH = 9;
/** Things thrown at the same time. */
const HANDS = 4;
/** How long a raw socket may be left without an answer: half of a request deserves none. */
const SILENCE_MS = 150;
const ANSWER_MS = 20_000;
/** Of so many runs each, one is made. */
const SHARE = repeats(8, 1);
/** What the second half, of more than 5,000 inputs where all runs are made, may add to the heap in use: 3 KiB each would be too much. */
const MAX_GROWTH_BYTES = (16 / SHARE) * 1024 * 1024;
/** Loaded into the mesh: SIGUSR2 collects the garbage of the main thread's heap. */
const COLLECT_ON_SIGNAL = `data:text/javascript,${encodeURIComponent(`
  import v8 from 'node:v8'; import vm from 'node:vm'; import { isMainThread } from 'node:worker_threads';
  v8.setFlagsFromString('--expose-gc');
  const gc = vm.runInNewContext('gc');
  if (isMainThread) process.on('SIGUSR2', () => { gc(); gc(); });
`)}`;

/** Whatever arrives from outside, the mesh answers by its contract, goes on serving, and keeps nothing of it. */
describe(`malformed input (FUZZ_SEED=${SEED})`, () => {
  let mesh: TestMesh;
  let ada: TestUser;
  let bob: TestUser;
  let eves: TestUser[];
  let eve: TestUser;
  let pid: number;
  let cases = 0;
  const heapBytes: number[] = [];

  beforeAll(async () => {
    console.log(`FUZZ_SEED=${SEED}`);
    const env = { LOG_LEVEL: 'error', AUTH_HS256_SECRET: inputs.SECRET, MAX_CONNECTIONS_PER_USER: '0' };
    mesh = await TestMesh.start({ env: { ...env, NODE_OPTIONS: `--import=${COLLECT_ON_SIGNAL}` } });
    [ada, bob, ...eves] = (await mesh.users(2 + HANDS)) as [TestUser, TestUser, ...TestUser[]];
    eve = eves[0] as TestUser;
    pid = mesh.process('edge').pid;
  }, 400_000);
  afterAll(async () => {
    console.log(`${cases} cases`);
    await mesh?.[Symbol.asyncDispose]();
  });

  /** The same process is there, has logged no error, and carries messages between two clients. */
  async function healthy(): Promise<void> {
    const edge = mesh.process('edge');
    expect(edge.pid).toBe(pid);
    process.kill(pid, 0);
    expect(edge.output).not.toMatch(/uncaught|unhandled|nobody caught|"level":"(error|fatal)"/i);
    const [from, to] = await Promise.all([WireClient.connect(mesh.url, ada), WireClient.connect(mesh.url, bob)]);
    const { server_message_id: id } = await from.answer(from.message(bob, 'still here'));
    await to.frame((f) => f.server_message_id === id && f.content === 'still here', 'the message', ANSWER_MS);
    to.confirm('delivered', id);
    const delivered = await from.frame((f) => f.status === 'delivered' && f.server_message_id === id, 'the receipt');
    from.send({ ack: [delivered.event_id] });
    await Promise.all([from.close(), to.close()]);
  }

  async function metric(name: string): Promise<number> {
    const text = await (await fetch(`http://127.0.0.1:${mesh.process('edge').adminPort}/metrics`)).text();
    return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(text)?.[1]);
  }

  /** The heap in use, without garbage. */
  async function heapInUse(): Promise<number> {
    process.kill(pid, 'SIGUSR2');
    // Handled in order: the collection is over when the next request is answered twice.
    await metric('nodejs_heap_size_used_bytes');
    return metric('nodejs_heap_size_used_bytes');
  }

  describe.each([0, 1])('half %i', (half) => {
    /** Throws `runs` times `size` values at once. */
    async function run<T>(one: fc.Arbitrary<T>, runs: number, size: number, check: (values: T[]) => Promise<unknown>) {
      const values = fc.array(one, { minLength: size, maxLength: size });
      const property = fc.asyncProperty(values, async (thrown) => {
        cases += thrown.length;
        await check(thrown);
      });
      await fc.assert(property, { seed: SEED + half, numRuns: Math.ceil(runs / SHARE), endOnFailure: true });
      await healthy();
    }
    const each =
      <T>(check: (value: T, at: number) => Promise<unknown>) =>
      (values: T[]) =>
        Promise.all(values.map(check));

    async function frames(one: fc.Arbitrary<string | Uint8Array>, runs: number): Promise<void> {
      const throwers = eves.map((user) => new Thrower(mesh.url, user));
      await run(one, runs, HANDS * BATCH, (all) =>
        Promise.all(throwers.map((t, i) => t.frames(all.slice(i * BATCH, (i + 1) * BATCH), randomUUID()))),
      );
      await Promise.all(throwers.map((t) => t.close()));
    }

    test('text frames are answered by an error each, and the socket stays open', () =>
      frames(inputs.jsonFrames(eve), 70));

    test('binary and empty frames are answered by an error each, and the socket stays open', () =>
      frames(inputs.binaryFrames, 8));

    test('bodies of unary calls', () =>
      run(
        inputs.calls(eve),
        60,
        10,
        each(({ method, proto, body }) =>
          unary(
            mesh.httpUrl,
            `chat.v1.ChatService/${method}`,
            `application/${proto ? 'proto' : 'json'}`,
            eve.token,
            body,
          ),
        ),
      ));

    test('envelopes of gRPC-Web and gRPC calls', async () => {
      const client = new H2Client(mesh.h2Url);
      const calls = fc.tuple(inputs.calls(eve), inputs.envelopeFlags, inputs.lengthErrors, fc.boolean());
      await run(
        calls,
        50,
        10,
        each(async ([call, flags, lengthError, web]) => {
          const path = `chat.v1.ChatService/${call.method}`;
          const body = inputs.enveloped(call, flags, lengthError);
          if (web) await grpcWeb(mesh.httpUrl, path, eve.token, body);
          else
            checkGrpc(
              await client.call({ path, type: 'application/grpc', token: eve.token, body, silenceMs: ANSWER_MS }),
            );
        }),
      );
      client.close();
    });

    test('envelopes of streams', async () => {
      const client = new H2Client(mesh.h2Url);
      const calls = fc.tuple(inputs.calls(eve), inputs.envelopeFlags, inputs.lengthErrors, fc.nat(2));
      await run(
        calls,
        40,
        HANDS,
        each(async ([call, flags, lengthError, kind], at) => {
          const { token, userId } = eves[at] as TestUser;
          const marker = randomUUID();
          const message = {
            senderId: userId,
            target: { case: 'receiverId', value: randomUUID() },
            payload: { case: 'content', value: 'x' },
            clientMessageId: marker,
          } as const;
          const frame = { frame: { case: 'send', value: message } } as const;
          const good = toBinary(ConnectRequestSchema, create(ConnectRequestSchema, { frame }));
          const body = Buffer.concat([
            inputs.enveloped(call, flags, lengthError),
            inputs.enveloped({ ...call, body: good }, 0, 0),
          ]);
          const type = ['application/connect+proto', 'application/connect+json', 'application/grpc'][kind] as string;
          const path = 'chat.v1.ChatService/Connect';
          const answer = await client.call({ path, type, token, body, marker, silenceMs: SILENCE_MS });
          if (type !== 'application/grpc') checkConnectStream(answer);
          else if (answer.ended) checkGrpc(answer);
        }),
      );
      client.close();
    });

    test('tokens are taken when they are good, and 401 otherwise, at every door', async () => {
      const client = new H2Client(mesh.h2Url);
      const message = { serverMessageIds: [randomUUID()] };
      const body = toBinary(GetStatusRequestSchema, create(GetStatusRequestSchema, message));
      const path = 'chat.v1.ChatService/GetStatus';
      await run(
        fc.tuple(inputs.tokens(eve), fc.nat(3)),
        40,
        10,
        each(async ([made, door]) => {
          const { text: token, good } = await made;
          let status: number;
          if (door === 0) status = await unary(mesh.httpUrl, path, 'application/proto', token, body);
          else if (door === 1) {
            const call = { path, type: 'application/proto', token, body, silenceMs: ANSWER_MS };
            status = Number((await client.call(call)).headers[':status']);
          } else {
            const header = door === 2 ? 'Authorization: Bearer ' : 'Sec-WebSocket-Protocol: chatmesh.v1, bearer.';
            const answer = await raw(mesh.httpUrl, inputs.upgrade(header + token), ANSWER_MS);
            status = Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1]);
          }
          // A list of subprotocols has a comma or a bad character where the token has one: 400 and 401 are both right.
          expect([token, status]).toEqual([
            token,
            good ? (door < 2 ? 200 : 101) : door === 3 && status === 400 ? 400 : 401,
          ]);
        }),
      );
      client.close();
    });

    test('bytes instead of HTTP/1.1 are refused by a status below 500, or not at all', () =>
      run(
        inputs.http1Garbage(eve),
        16,
        20,
        each(async (bytes) => {
          const answer = await raw(mesh.httpUrl, bytes, SILENCE_MS);
          if (answer !== '') expect(answer).toMatch(/^HTTP\/1\.1 (101|[234]\d\d|501|503) /);
        }),
      ));

    test('bytes instead of HTTP/2', () =>
      run(
        inputs.http2Garbage,
        12,
        20,
        each((bytes) => raw(mesh.h2Url, bytes, SILENCE_MS)),
      ));

    test('nothing is kept: no session, and no memory', async () => {
      await until(async () => (await metric('chatmesh_sessions')) === 0, { what: 'the end of every session' });
      if (half === 0) heapBytes.push(await heapInUse());
      // What still waits for a timer goes with it: the condition may take a while to come true.
      await until(
        async () => {
          const growth = (await heapInUse()) - (heapBytes[0] as number);
          return growth <= MAX_GROWTH_BYTES;
        },
        { timeoutMs: 30_000, what: () => `a heap that has grown by less than ${MAX_GROWTH_BYTES} bytes` },
      );
    });
  });
});
