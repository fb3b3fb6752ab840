// A program that appends to one inbox and removes from it until it kills itself, saying on stdout what it is about to
// remove, and what has become durable.
import { writeSync } from 'node:fs';
import type { InboxStore } from '@chatmesh/chat';
import { numbers, openFromArguments } from './engine.js';

const { store, args } = await openFromArguments<InboxStore>();
const [userId = '', deviceId = '', first = '', seed = ''] = args;
const below = numbers(Number(seed));
let next = Number(first);
let left = 1 + below(40);

const at = (n: number) => n.toString(16).padStart(13, '0');
const say = (what: string, ns: readonly number[]) => writeSync(1, ns.map((n) => `${what} ${n}\n`).join(''));

/** Each runs by itself, so that several writes are on their way when the process dies. */
async function work(): Promise<void> {
  for (;;) {
    const ns = Array.from({ length: 1 + below(20) }, () => next++);
    const rows = ns.map((n) => ({
      userId,
      deviceId,
      position: at(n),
      payload: Buffer.from(`content ${n} ${'x'.repeat(n % 500)}`),
    }));
    await store.append(rows, Date.now());
    say('appended', ns);
    const gone = ns.filter(() => below(2) === 0);
    if (gone.length > 0) {
      say('removing', gone);
      await store.remove(userId, deviceId, gone.map(at));
      say('removed', gone);
    }
    if (--left <= 0) process.kill(process.pid, 'SIGKILL');
  }
}

await Promise.all([work(), work(), work()]);
