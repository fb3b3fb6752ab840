import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** A store that was opened, and how to let go of it in order. */
export interface Opened<T> {
  readonly store: T;
  close(): Promise<void>;
}

/**
 * How a contract suite gets at one implementation of a seam. One process at a time has a place open; opening it again
 * finds what was there, also after a process was killed.
 */
export interface Engine<T> {
  open(location: string): Promise<Opened<T>>;
  /** The module that exports `open` under `exported`, for child processes that are to be killed. */
  readonly module: string;
  readonly exported: string;
  /** A new, empty place. */
  place(): Promise<{ readonly location: string; remove(): Promise<void> }>;
}

/** Waits until `condition` holds, for at most `withinMs`. */
export async function until(condition: () => boolean, what: string, withinMs = 20_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await sleep(2);
  }
}

/** A seed for this run, told so that a failure can be run again. */
export function newSeed(what: string): number {
  const seed = Math.floor(Math.random() * 0x7fff_ffff);
  console.info(`${what}: seed ${seed}`);
  return seed;
}

/** A repeatable source of numbers from 0 to below `n` (Lehmer's generator). */
export function numbers(seed: number): (n: number) => number {
  let state = (seed % 0x7fff_fffe) + 1;
  return (n) => {
    state = (state * 48_271) % 0x7fff_ffff;
    return state % n;
  };
}

/** Starts `program` (a module beside this one) on an engine's place and returns what it wrote before it was killed. */
export async function runUntilKilled<T>(
  program: string,
  engine: Engine<T>,
  location: string,
  ...args: string[]
): Promise<string[]> {
  const path = fileURLToPath(new URL(program, import.meta.url));
  const child: ChildProcess = spawn(process.execPath, [path, engine.module, engine.exported, location, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  let complained = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  child.stderr?.on('data', (chunk: Buffer) => {
    complained += chunk;
  });
  await once(child, 'close');
  if (child.signalCode !== 'SIGKILL') throw new Error(`${program} ended by itself (${child.exitCode}): ${complained}`);
  return said.split('\n').filter((line) => line !== '');
}

/** In a child program: the store that its arguments name, and the arguments after those. */
export async function openFromArguments<T>(): Promise<{ store: T; args: string[] }> {
  const [module = '', exported = '', location = '', ...args] = process.argv.slice(2);
  const engine = (await import(module))[exported] as Engine<T>;
  return { store: (await engine.open(location)).store, args };
}
