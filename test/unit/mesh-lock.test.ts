import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { acquireLock } from '@chatmesh/mesh';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';

const mesh = createRequire(import.meta.url).resolve('@chatmesh/mesh');
const lockModule = pathToFileURL(mesh.replace('index.js', 'lock.js')).href;
/**
 * Takes the lock at the moment that a line of its input names, and says "held" or why not; an empty line releases it. As in a
 * process that starts, each turn of its event loop takes a while.
 */
const program = `
  import { createInterface } from 'node:readline';
  import { acquireLock } from ${JSON.stringify(lockModule)};
  const spinUntil = (ms) => { while (Date.now() < ms); };
  let lock;
  console.log('up');
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === '') console.log(await lock.release() ?? 'released');
    else {
      spinUntil(Number(line));
      let turn = setImmediate(function busy() {
        spinUntil(Date.now() + 2);
        turn = setImmediate(busy);
      });
      lock = await acquireLock(process.argv[1]).catch((error) => console.log(error.kind + ': ' + error.message));
      clearImmediate(turn);
      if (lock) console.log('held');
    }
  }
`;
const ROUNDS = 40;
/** For a line to reach all processes before its moment comes. */
const LEAD_MS = 5;

class Contender {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(directory: string, env: NodeJS.ProcessEnv = process.env) {
    this.#child = spawn(process.execPath, ['--input-type=module', '-e', program, directory], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env,
    });
    this.#lines = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  async says(): Promise<string> {
    return (await this.#lines.next()).value as string;
  }

  /** @param atMs as of Date.now(). */
  async take(atMs = 0): Promise<string> {
    this.#child.stdin?.write(`${atMs}\n`);
    return await this.says();
  }

  async release(): Promise<string> {
    this.#child.stdin?.write('\n');
    return await this.says();
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exit = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exit;
  }
}

let temporary: string;
let directory: string;
let contenders: Contender[];

beforeEach(() => {
  temporary = mkdtempSync(join(tmpdir(), 'chatmesh-lock-'));
  directory = join(temporary, 'data');
  contenders = [];
});

afterEach(async () => {
  for (const contender of contenders) await contender.kill();
  rmSync(temporary, { recursive: true, force: true });
});

/** A process that is about to take the lock. */
async function launch(env?: NodeJS.ProcessEnv): Promise<Contender> {
  const contender = new Contender(directory, env);
  contenders.push(contender);
  expect(await contender.says()).toBe('up');
  return contender;
}

describe('the lock of a directory', () => {
  test('a second process is refused with a sentence that names the lock and its holder', async () => {
    const [first, second] = [await launch(), await launch()];
    expect(await first.take()).toBe('held');
    const refusal = await second.take();
    const [socket] = readdirSync(join(directory, 'lock')) as [string];
    expect(refusal).toMatch(/^failed_precondition: /);
    expect(refusal).toContain(join(directory, 'lock', socket));
    expect(refusal).toContain(`process ${first.pid}`);
  });

  test('of several processes at once exactly one gets it, whatever was killed or released before', async () => {
    let waiting = await Promise.all(Array.from({ length: 4 }, () => launch()));
    for (let round = 0; round < ROUNDS; round++) {
      const some = waiting.slice(0, 2 + (round % 3));
      const atMs = Date.now() + LEAD_MS;
      const said = await Promise.all(some.map((contender) => contender.take(atMs)));
      expect(said.filter((line) => line === 'held')).toHaveLength(1);
      for (const line of said) if (line !== 'held') expect(line).toContain(join(directory, 'lock'));
      const holder = some[said.indexOf('held')] as Contender;
      if (round % 3 === 2) {
        expect(await holder.release()).toBe('released');
      } else {
        await holder.kill();
        waiting = [...waiting.filter((contender) => contender !== holder), await launch()];
      }
    }
    // Nothing has gathered but what the last holder left.
    expect(readdirSync(directory).length).toBeLessThanOrEqual(1);
  });

  test('what a process left that was killed while it took the lock is removed by the next holder', async () => {
    mkdirSync(join(directory, 'lock-1-abcdef'), { recursive: true });
    writeFileSync(join(directory, 'lock-1-abcdef', '1-abcdef'), '');
    const lock = await acquireLock(directory);
    expect(readdirSync(directory)).toEqual(['lock']);
    await lock.release();
    expect(readdirSync(directory)).toEqual([]);
  });

  test('a holder that is stopped goes on holding it', async () => {
    const holder = await launch();
    expect(await holder.take()).toBe('held');
    holder.signal('SIGSTOP');
    await expect(acquireLock(directory)).rejects.toMatchObject({ kind: 'failed_precondition' });
  });

  test('the same process cannot take it twice, and can take it again after the release', async () => {
    const lock = await acquireLock(directory);
    await expect(acquireLock(directory)).rejects.toMatchObject({ kind: 'failed_precondition' });
    await lock.release();
    await lock.release();
    await (await acquireLock(directory)).release();
  });

  test('a path longer than the address of a socket, and a TMPDIR that is not there, are no obstacle', async () => {
    directory = join(directory, 'd'.repeat(120));
    const env = { ...process.env, TMPDIR: '/nowhere' };
    const [first, second] = [await launch(env), await launch(env)];
    expect(await first.take()).toBe('held');
    expect(await second.take()).toContain(join(directory, 'lock'));
    await first.kill();
    expect(await second.take()).toBe('held');
    expect(existsSync('/nowhere')).toBe(false);
  });

  test('a directory that cannot be made is reported by its name', async () => {
    writeFileSync(join(temporary, 'file'), '');
    directory = join(temporary, 'file', 'below');
    await expect(acquireLock(directory)).rejects.toThrow(directory);
  });
});
