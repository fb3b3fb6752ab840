import { type ChildProcess, spawn } from 'node:child_process';

const TAIL_LINES = 40;
/** The mesh drains for at most 25 s; a profile is written after that. */
const STOP_TIMEOUT_MS = 40_000;

/** A server under test in a process of its own; its death is an error of whoever is measuring it. */
export class ServerProcess {
  readonly pid: number;
  /** Rejects when the process ends before `stop()`; never resolves. */
  readonly died: Promise<never>;
  readonly #child: ChildProcess;
  readonly #exited: Promise<string>;
  readonly #tail: string[] = [];
  readonly #firstLine: Promise<string>;
  #stopping = false;

  /** @param args node's arguments: options, the program, its arguments. */
  constructor(args: string[], env: Record<string, string | undefined>) {
    this.#child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.pid = this.#child.pid as number;
    const kill = () => this.#child.kill('SIGKILL');
    // Before the data directory is removed.
    process.prependOnceListener('exit', kill);
    this.#exited = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        process.off('exit', kill);
        resolve(signal ?? `exit code ${code}`);
      });
    });
    this.#firstLine = new Promise((resolve) => {
      this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
        this.#keep(text);
        resolve(this.#tail[0] as string);
      });
    });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => this.#keep(text));
    this.died = this.#exited.then((how) => {
      if (this.#stopping) return new Promise<never>(() => {});
      throw new Error(`the server ended with ${how}`);
    });
    this.died.catch(() => {});
  }

  /** The last lines of the server's output. */
  get tail(): string {
    return this.#tail.join('\n');
  }

  /** The first line of the server's standard output. */
  firstLine(): Promise<string> {
    return Promise.race([this.#firstLine, this.died]);
  }

  /**
   * Ends the server by SIGTERM.
   *
   * @throws Error when it does not leave cleanly in time; it is killed then.
   */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#child.kill('SIGTERM');
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    const how = await this.#exited;
    clearTimeout(timer);
    if (how !== 'exit code 0') throw new Error(`the server did not leave cleanly: ${how}\n${this.tail}`);
  }

  #keep(text: string): void {
    for (const line of text.split('\n')) if (line) this.#tail.push(line);
    this.#tail.splice(0, this.#tail.length - TAIL_LINES);
  }
}
