import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Answer } from './damage-router.js';
import type { Outcome } from './damage-victim.js';
import { UNHANDLED, waitingMessages } from './damage-world.js';
import { damage } from './damages.js';

const VICTIM = fileURLToPath(new URL('./damage-victim.js', import.meta.url));

export type Verdict = 'refused' | 'whole' | 'rows lost';

/** Data in which messages wait, as a router that was killed has left it; each damage is done to a copy. */
export class DamageRun implements AsyncDisposable {
  readonly #root = mkdtempSync(join(tmpdir(), 'chatmesh-damages-'));
  /** When each waiting message was accepted, by the client's id. */
  readonly #acceptedAtMs = new Map<string, number>();
  #victim: Victim | undefined;
  #copies = 0;

  static async prepare(): Promise<DamageRun> {
    const run = new DamageRun();
    const victim = new Victim('prepare', run.#sound);
    await victim.line();
    mkdirSync(join(run.#root, 'older'));
    copyFileSync(join(run.#sound, 'chat', 'data.mdb'), run.#older);
    victim.say('');
    for (const { clientMessageId, acceptedAtMs } of (await victim.line()) as Answer[])
      run.#acceptedAtMs.set(clientMessageId, acceptedAtMs);
    await victim.kill();
    // A socket: it cannot be copied.
    rmSync(join(run.#sound, 'chat', 'lock'), { recursive: true, force: true });
    return run;
  }

  /**
   * Damages a copy, runs a router on it, and says how it ended; `undefined` damages nothing.
   *
   * @throws Error that says which promise was broken.
   */
  async judge(kind: string | undefined, random: () => number): Promise<Verdict> {
    const dataDir = join(this.#root, `copy-${this.#copies++}`);
    cpSync(this.#sound, dataDir, { recursive: true });
    const file = join(dataDir, 'chat', 'data.mdb');
    if (kind !== undefined) damage(kind, file, this.#older, random);
    this.#victim ??= new Victim();
    this.#victim.say(dataDir);
    let outcome: Outcome;
    try {
      outcome = (await this.#victim.line()) as Outcome;
    } catch (error) {
      this.#victim = undefined;
      throw error;
    }
    const verdict = this.#verdictOf(outcome, file);
    rmSync(dataDir, { recursive: true, force: true });
    return verdict;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#victim?.kill();
    rmSync(this.#root, { recursive: true, force: true });
  }

  get #sound(): string {
    return join(this.#root, 'sound');
  }

  get #older(): string {
    return join(this.#root, 'older', 'data.mdb');
  }

  #verdictOf(outcome: Outcome, file: string): Verdict {
    const { refused, delivered, failed, repeats, fresh, later, damagedRows, log } = outcome;
    if (refused !== '') {
      check(refused.includes(file), `the refusal does not name ${file}: ${refused}`);
      return 'refused';
    }
    const all = [...delivered, ...later];
    check(
      all.every(({ sound }) => sound),
      'altered text was delivered',
    );
    const got = new Set(delivered.map(({ clientMessageId }) => clientMessageId));
    const lost = waitingMessages().filter(({ clientMessageId }) => !got.has(clientMessageId));
    const loud = damagedRows > 0 && log.some((line) => line.includes('a stored row is damaged'));
    check(lost.length === 0 || loud, `${lost.length} messages were lost in silence`);
    const rows = lost.filter(({ to }) => to !== UNHANDLED).length;
    check(rows <= damagedRows, `${damagedRows} damaged rows cost ${rows} messages`);
    const twice = delivered.filter(({ id, to }, i) => delivered.slice(0, i).some((d) => d.id === id && d.to === to));
    check(twice.length === 0, `${twice.length} came twice: ${JSON.stringify(twice[0])}\n${log.join('')}`);
    const told = new Set(failed);
    check(!delivered.some(({ id }) => told.has(id)), 'a message that was delivered is said to have failed');

    const unanswered = repeats.filter(({ refusal }) => refusal === 'internal');
    check(unanswered.length === 0 || loud, `${unanswered.length} repeats cannot be answered, in silence`);
    for (const { clientMessageId, acceptedAtMs, deduplicated, refusal } of repeats) {
      if (refusal === 'internal') continue;
      const right = deduplicated && acceptedAtMs === this.#acceptedAtMs.get(clientMessageId);
      check(
        right,
        `the repeat of ${clientMessageId} got ${refusal || `${acceptedAtMs}, deduplicated: ${deduplicated}`}`,
      );
    }
    const gotLater = new Set(later.map(({ clientMessageId }) => clientMessageId));
    for (const { clientMessageId, refusal } of fresh) {
      check(refusal === '', `a new message is refused: ${refusal}`);
      check(gotLater.has(clientMessageId), `the new message ${clientMessageId} is lost`);
    }
    check(
      !delivered.some(({ clientMessageId }) => gotLater.has(clientMessageId)),
      'a confirmed message was sent again',
    );
    return lost.length + unanswered.length + damagedRows > 0 ? 'rows lost' : 'whole';
  }
}

/** A process that answers with a line of JSON. */
class Victim {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  constructor(...args: string[]) {
    const child = spawn(process.execPath, [VICTIM, ...args], { stdio: 'pipe' });
    this.#child = child;
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors += text;
    });
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  say(line: string): void {
    this.#child.stdin?.write(`${line}\n`);
  }

  /** @throws Error when the process ends before. */
  async line(): Promise<unknown> {
    const { value, done } = await this.#lines.next();
    if (!done) return JSON.parse(value);
    if (this.#child.exitCode === null && this.#child.signalCode === null) await once(this.#child, 'exit');
    throw new Error(`the process ended by ${this.#child.signalCode ?? this.#child.exitCode}:\n${this.#errors}`);
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}

function check(right: boolean, wrong: string): void {
  if (!right) throw new Error(wrong);
}
