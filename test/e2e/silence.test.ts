import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { WebSocket } from 'ws';
import { WireClient } from '../client.js';
import { type TestUser, until } from '../mesh.js';

const TURN_MS = 40;
/** Turns of the edge's wheel: a minute where a turn is a second. */
const SILENT_MS = 61 * TURN_MS;
const PROGRAM = fileURLToPath(new URL('stopped-edge.js', import.meta.url));

let mesh: ChildProcess;
let url: string;
let users: TestUser[];

beforeAll(async () => {
  mesh = spawn(process.execPath, [PROGRAM, String(TURN_MS)], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  mesh.stdout?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  await until(() => said.includes('\n'), { what: 'the mesh' });
  ({ url, users } = JSON.parse(said));
}, 400_000);
afterAll(async () => {
  const ended = once(mesh, 'exit');
  mesh.kill('SIGKILL');
  await ended;
});

/** A client that answers no ping. */
async function mute(user: TestUser): Promise<WebSocket> {
  const socket = new WebSocket(url, { autoPong: false, headers: { authorization: `Bearer ${user.token}` } });
  await once(socket, 'open');
  return socket;
}

test('a process that was stopped for longer than silence is allowed drops nobody who was there meanwhile', async () => {
  const [ada, bob] = users as [TestUser, TestUser];
  const [a, b] = [await WireClient.connect(url, ada), await WireClient.connect(url, bob)];
  await b.frame((frame) => frame.caught_up, 'caught_up');
  mesh.kill('SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 2 * SILENT_MS));
  let pings = 0;
  a.socket.on('ping', () => pings++);
  mesh.kill('SIGCONT');
  // Each session is pinged once within a round, and looked at.
  await until(() => pings >= 3, { what: 'three pings' });
  expect([a.closeCode, b.closeCode]).toEqual([undefined, undefined]);
  expect(await a.answer(a.message(bob, 'still there'))).toMatchObject({ status: 'sent' });
  await b.frame((frame) => frame.content === 'still there', 'the message');
  await Promise.all([a.close(), b.close()]);
});

test('a client of which nothing comes is dropped with 4408, one that sends a large frame slowly is not', async () => {
  const [, , eve, dan] = users as [TestUser, TestUser, TestUser, TestUser];
  const silent = await mute(eve);
  const { hostname, port } = new URL(url);
  const slow = connect({ host: hostname, port: Number(port) });
  const received: Buffer[] = [];
  slow.on('data', (data) => void received.push(data));
  slow.write(
    [
      'GET /connect HTTP/1.1',
      `Host: ${hostname}`,
      'Connection: Upgrade',
      'Upgrade: websocket',
      'Sec-WebSocket-Version: 13',
      'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==',
      `Authorization: Bearer ${dan.token}`,
      '\r\n',
    ].join('\r\n'),
  );
  await until(() => Buffer.concat(received).includes('101 Switching Protocols'), { what: 'the upgrade' });
  // One text frame, masked with zeros; its client answers no pings in the middle of it.
  const content = Buffer.from(`{"nothing":"${'x'.repeat(60_000)}"}`);
  const header = Buffer.from([0x81, 0x80 | 126, content.length >> 8, content.length & 0xff, 0, 0, 0, 0]);
  slow.write(header);
  const step = Math.ceil((content.length * TURN_MS) / (2.5 * SILENT_MS));
  for (let at = 0; at < content.length && slow.writable; at += step) {
    slow.write(content.subarray(at, at + step));
    await new Promise((resolve) => setTimeout(resolve, TURN_MS));
  }
  if (silent.readyState !== WebSocket.CLOSED) await once(silent, 'close');
  // The frame has come as a whole: what it says is refused.
  await until(() => Buffer.concat(received).includes('invalid_argument'), { what: 'the refusal' });
  expect(Buffer.concat(received).includes('no heartbeat')).toBe(false);
  slow.destroy();
});

test('4408 says that nothing was heard', async () => {
  const [, , , dan] = users as [TestUser, TestUser, TestUser, TestUser];
  const [code] = await once(await mute(dan), 'close');
  expect(code).toBe(4408);
});
