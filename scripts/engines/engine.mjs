import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort, isFree } from './network.mjs';
import { birthOf, signal, treeOf } from './processes.mjs';

/** Long for a machine that is busy with other things; an engine alone needs a few seconds. */
const START_MS = 180_000;
const STOP_MS = 30_000;
const POLL_MS = 25;
const ANSWER_MS = 2_000;

/**
 * @typedef {object} EngineOptions
 * @property {string} directory for its data, its log and what it remembers; made where it is not there
 * @property {Record<string, number>} [ports] those to prefer, by name, where they are free; others are chosen
 * @property {boolean} [detached] it outlives this process, and another one finds it by its directory
 * @property {string} [host] the address to listen on; 127.0.0.1
 */

/**
 * A real engine in a process of its own, on ports of the loopback that stay the same over restarts.
 *
 * Unless it is detached it ends with the process that started it, however that one ends.
 */
export class Engine {
  /** The engine's name: that of its log, its jars and its folder. */
  static engineName = '';
  /** Its names for the ports that it needs. @type {string[]} */
  static portNames = [];
  /** What tells it to end in good order. @type {NodeJS.Signals} */
  static stopSignal = 'SIGTERM';

  /** @readonly */
  directory;
  /** @readonly */
  host;
  /** @readonly */
  detached;
  #preferred;
  /** @type {Record<string, number> | undefined} */
  #ports;

  /** @param {EngineOptions} options */
  constructor({ directory, ports = {}, detached = false, host = '127.0.0.1' }) {
    this.directory = resolve(directory);
    this.host = host;
    this.detached = detached;
    this.#preferred = ports;
  }

  /** What is missing on this machine, one sentence each. @returns {string[]} */
  static missing() {
    return [];
  }

  get #kind() {
    return /** @type {typeof Engine} */ (this.constructor);
  }

  /** The engine's name. */
  get name() {
    return this.#kind.engineName;
  }

  /** What it has printed, over all its starts: the path of a file. */
  get log() {
    return join(this.directory, `${this.name}.log`);
  }

  /** Its ports by name. @returns {Record<string, number>} @throws before its first start */
  get ports() {
    this.#ports ??= this.#remembered('ports.json');
    if (!this.#ports) throw new Error(`${this.name} has no ports yet: start it first`);
    return this.#ports;
  }

  /** The variables that point a mesh at this engine. @returns {Record<string, string>} @throws before its first start */
  get env() {
    return {};
  }

  /** The id of its process, which is the id of its group, too; undefined when it does not run. @returns {number | undefined} */
  get pid() {
    const process = this.#remembered('process.json');
    return process && birthOf(process.pid) === process.birth ? process.pid : undefined;
  }

  /**
   * Starts it, with the data and on the ports of its last start, and waits until it answers. One that runs is left alone.
   *
   * @param {{ timeoutMs?: number }} [options]
   * @returns {Promise<void>}
   * @throws Error with the last lines of its log when it ends meanwhile, or saying what is missing on this machine
   */
  async start(options) {
    if (this.pid === undefined) await this.#launch();
    await this.ready(options);
  }

  /**
   * Waits until it answers.
   *
   * @param {{ timeoutMs?: number }} [options]
   * @returns {Promise<void>}
   */
  async ready({ timeoutMs = START_MS } = {}) {
    const endMs = performance.now() + timeoutMs;
    while (!(await this.answers({ timeoutMs: ANSWER_MS }))) {
      if (this.pid === undefined)
        throw new Error(`${this.name} has ended. The last lines of ${this.log}:\n${this.#tail()}`);
      if (performance.now() > endMs)
        throw new Error(
          `${this.name} did not answer for ${timeoutMs} ms. The last lines of ${this.log}:\n${this.#tail()}`,
        );
      await sleep(POLL_MS);
    }
  }

  /**
   * Asks it once.
   *
   * @param {{ timeoutMs: number }} _options how long to wait for the answer
   * @returns {Promise<boolean>} false when it does not answer, or not as one that is ready
   */
  async answers(_options) {
    return false;
  }

  /** Ends it and all its children at once, as a loss of power would; resolves when they are gone. */
  async kill() {
    const pid = this.pid;
    if (pid === undefined) return;
    // Stopped first, so that none is born while they are counted.
    signal(pid, 'SIGSTOP');
    const tree = treeOf(pid);
    const births = tree.map(birthOf);
    for (const each of tree) signal(each, 'SIGKILL');
    while (tree.some((each, i) => births[i] !== undefined && birthOf(each) === births[i])) await sleep(POLL_MS);
  }

  /**
   * Ends it in good order, and by force when that takes too long; resolves when it is gone.
   *
   * @param {{ timeoutMs?: number }} [options]
   */
  async stop({ timeoutMs = STOP_MS } = {}) {
    const pid = this.pid;
    if (pid === undefined) return;
    signal(pid, this.#kind.stopSignal);
    const endMs = performance.now() + timeoutMs;
    while (this.pid !== undefined && performance.now() < endMs) await sleep(POLL_MS);
    await this.kill();
  }

  /** Freezes it with its children: its sockets stay open, and nobody answers. */
  pause() {
    if (this.pid === undefined) throw new Error(`${this.name} does not run`);
    signal(this.pid, 'SIGSTOP');
    for (const pid of treeOf(this.pid)) signal(pid, 'SIGSTOP');
  }

  /** Lets it go on after a pause. */
  resume() {
    if (this.pid === undefined) throw new Error(`${this.name} does not run`);
    for (const pid of treeOf(this.pid).reverse()) signal(pid, 'SIGCONT');
  }

  /** Ends it and deletes its data. */
  async wipe() {
    await this.kill();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose]() {
    await this.kill();
  }

  /**
   * What to run, and as which user: the engine in the foreground.
   *
   * @protected
   * @returns {Promise<{ command: string, args: string[], uid?: number, gid?: number }>}
   */
  async command() {
    throw new Error(`${this.name} says no command`);
  }

  async #launch() {
    await this.choosePorts();
    const { command, args, ...user } = await this.command();
    const log = openSync(this.log, 'a');
    const child = spawn(command, args, { cwd: this.directory, detached: true, stdio: ['ignore', log, log], ...user });
    closeSync(log);
    await once(child, 'spawn');
    child.unref();
    const pid = /** @type {number} */ (child.pid);
    writeFileSync(join(this.directory, 'process.json'), JSON.stringify({ pid, birth: birthOf(pid) }));
    if (!this.detached) guard(child);
  }

  /** Settles its ports ahead of its first start, for those who must know them before. */
  async choosePorts() {
    mkdirSync(this.directory, { recursive: true });
    this.#ports ??= this.#remembered('ports.json');
    if (this.#ports) return;
    /** @type {Record<string, number>} */
    const ports = {};
    for (const name of this.#kind.portNames) {
      const preferred = this.#preferred[name];
      ports[name] = preferred && (await isFree(this.host, preferred)) ? preferred : await freePort([this.host]);
    }
    writeFileSync(join(this.directory, 'ports.json'), JSON.stringify(ports));
    this.#ports = ports;
  }

  /** @param {string} file */
  #remembered(file) {
    try {
      return JSON.parse(readFileSync(join(this.directory, file), 'utf8'));
    } catch {
      return undefined; // never started here
    }
  }

  #tail() {
    return readFileSync(this.log, 'utf8').trimEnd().split('\n').slice(-15).join('\n');
  }
}

/**
 * Ends an engine's group with this process, also when this process is killed: a shell waits at the other end of a pipe,
 * which the system closes. A line on the pipe says that the engine has ended by itself.
 *
 * @param {import('node:child_process').ChildProcess} child
 */
function guard(child) {
  const shell = spawn('/bin/sh', ['-c', 'read -r ended || kill -s KILL -- "-$0"', String(child.pid)], {
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  shell.unref();
  const pipe = /** @type {import('node:net').Socket} */ (shell.stdin);
  pipe.unref();
  pipe.on('error', () => undefined); // the shell has been ended by somebody else: nothing left to tell it
  child.on('exit', () => pipe.end('ended\n'));
}
