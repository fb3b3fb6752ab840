// `npm start`, as README.md says it, in this folder: sees the mesh become ready, serve the page, and end when it is told to.
// Counts as one test: the argument names the file that the result goes to, in Jest's form.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePorts } from './engines/network.mjs';

const PORTS = ['EDGE_PORT', 'EDGE_H2_PORT', 'CHAT_PORT', 'USER_PORT', 'PRESENCE_PORT', 'ADMIN_PORT'];
/** It compiles first. */
const READY_MS = 120_000;
const LOOK_MS = 100;

const free = await freePorts(PORTS.length);
const ports = Object.fromEntries(PORTS.map((name, i) => [name, String(free[i])]));
const get = (port, path) => fetch(`http://127.0.0.1:${ports[port]}${path}`);
// In a group of its own, so that a signal reaches npm, its shell and the mesh.
const npm = spawn('npm', ['start'], {
  env: { ...process.env, ...ports },
  stdio: ['ignore', 'pipe', 'pipe'],
  detached: true,
});
const exit = once(npm, 'exit');
let output = '';
for (const stream of [npm.stdout, npm.stderr]) stream.on('data', (text) => (output += text));

async function servesThePage() {
  for (let waitedMs = 0; ; waitedMs += LOOK_MS) {
    if (npm.exitCode !== null) throw new Error(`it ended with ${npm.exitCode}`);
    if (waitedMs > READY_MS) throw new Error(`it is not ready after ${READY_MS} ms`);
    const ready = await get('ADMIN_PORT', '/readyz').catch(() => undefined);
    if (ready?.ok) break;
    await sleep(LOOK_MS);
  }
  const page = await get('EDGE_PORT', '/');
  const text = await page.text();
  if (!page.ok || !/<html/i.test(text)) throw new Error(`the page is ${page.status}: ${text.slice(0, 200)}`);
}

let failure;
try {
  await servesThePage();
} catch (error) {
  failure = error;
}
if (npm.exitCode === null) process.kill(-npm.pid, 'SIGTERM');
await exit;
if (failure) console.error(`npm start: ${failure.message}\n${output}`);
else console.log('npm start: the mesh became ready and served the page.');
const counts = failure ? { numPassedTests: 0, numFailedTests: 1 } : { numPassedTests: 1, numFailedTests: 0 };
writeFileSync(process.argv[2], JSON.stringify(counts));
process.exitCode = failure ? 1 : 0;
