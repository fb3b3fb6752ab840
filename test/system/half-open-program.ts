import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';
import { HERE, OtherSide } from './cut-network.js';

/** A client that opens a stream over HTTP/1.1 and reads it. */
const CLIENT = `
  const [host, port, token] = process.argv.slice(1);
  const socket = require('net').connect(port, host);
  socket.write('POST /chat.v1.ChatService/Receive HTTP/1.1\\r\\nHost: edge\\r\\nContent-Type: application/connect+json\\r\\nAuthorization: Bearer ' + token + '\\r\\nContent-Length: 7\\r\\n\\r\\n\\0\\0\\0\\0\\x02{}');
  socket.resume();
  socket.on('error', () => {});
`;
const LOOK_EVERY_MS = 200;

/** Prints when which session ended: one behind a wire that is cut, one beside it, and one whose client stops reading. */
async function main(): Promise<void> {
  const other = new OtherSide();
  const mesh = await LocalMesh.start({
    env: { EDGE_HOST: '0.0.0.0' },
    edge: { patience: { lookEveryMs: LOOK_EVERY_MS, unacknowledgedMs: 2_000 } },
  });
  const users = (await mesh.users(3)) as [TestUser, TestUser, TestUser];
  const [far, near, ada] = users;
  const count = (user: TestUser) => mesh.edge.sessions.countOf(user.userId);
  const dial = (command: string, args: string[], host: string, user: TestUser) =>
    spawn(command, [...args, '-e', CLIENT, host, String(mesh.edge.port), user.token], { stdio: 'inherit' });
  const [command, args] = other.command(process.execPath);
  const clients = [dial(command, args, HERE, far), dial(process.execPath, [], '127.0.0.1', near)];
  // Reads nothing, though its kernel acknowledges.
  const lazy = connect(mesh.edge.port, '127.0.0.1');
  lazy.pause();
  lazy.write(
    `POST /chat.v1.ChatService/Receive HTTP/1.1\r\nHost: edge\r\nContent-Type: application/connect+json\r\nAuthorization: Bearer ${ada.token}\r\nContent-Length: 7\r\n\r\n\0\0\0\0\x02{}`,
  );
  await until(() => [far, near, ada].every((user) => count(user) === 1), { what: 'three sessions' });
  // Many looks find nothing wrong.
  await new Promise((resolve) => setTimeout(resolve, 10 * LOOK_EVERY_MS));
  const before = [far, near, ada].map(count);
  await other.cut();
  // What is said to each of them from now on is not acknowledged by one.
  const at = performance.now();
  const bob = (await mesh.users(1))[0] as TestUser;
  const socket = await WireClient.connect(mesh.url, bob);
  for (const user of [far, near, ada]) await socket.answer(socket.message(user, 'anybody there?'));
  await until(() => count(far) === 0, { what: 'the end of the session behind the wire' });
  const endedAfterMs = Math.round(performance.now() - at);
  console.log(JSON.stringify({ before, after: [near, ada].map(count), endedAfterMs }));
  for (const client of clients) client.kill();
  lazy.destroy();
  await mesh[Symbol.asyncDispose]();
}

await main();
process.exit(0);
