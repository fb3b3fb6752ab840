import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { expect, test } from '@jest/globals';

const mesh = pathToFileURL(createRequire(import.meta.url).resolve('@chatmesh/mesh')).href;
/**
 * Fills the old generation with what soon becomes garbage, then does nothing but say every 100 ms how many bytes its heap
 * holds.
 */
const program = `
  const { giveBackMemoryWhenIdle } = await import(${JSON.stringify(mesh)});
  giveBackMemoryWhenIdle(() => process.cpuUsage(), 50);
  const kept = [];
  for (let i = 0; i < 1_500_000; i++) kept.push({ text: 'x' + i, at: i });
  kept.length = 0;
  setInterval(() => console.log(process.memoryUsage().heapTotal), 100);
`;

test('an idle process gives back what a burst has left', async () => {
  const child = spawn(process.execPath, ['--max-semi-space-size=64', '--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    let atFirst = 0;
    let now = Number.POSITIVE_INFINITY;
    for await (const line of createInterface({ input: child.stdout })) {
      now = Number(line);
      atFirst ||= now;
      if (now < atFirst / 2) break;
    }
    expect(now).toBeLessThan(atFirst / 2);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});
