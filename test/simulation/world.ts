import { Random } from './random.js';

/** How a simulated process stands: `stopped` is SIGSTOP, what happens to it meanwhile waits. */
export type HostState = 'running' | 'stopped' | 'dead';

interface Event {
  readonly dueMs: number;
  readonly number: number;
  readonly host: Host;
  readonly run: () => void;
  cancelled: boolean;
}

/** What the globals are when no world has taken their place. */
const real = {
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setInterval: globalThis.setInterval,
  clearInterval: globalThis.clearInterval,
  setImmediate: globalThis.setImmediate,
  clearImmediate: globalThis.clearImmediate,
  now: Date.now,
  performanceNow: performance.now,
  random: Math.random,
};

/** Some day, milliseconds since 1970: runs do not depend on when they are made. */
const EPOCH_MS = Date.UTC(2026, 0, 1);
/** Clocks of processes that began at other times differ by up to this. */
const BOOTED_WITHIN_MS = 1_000_000;

/** One process: its timers and clocks, and what comes to it from outside, are the world's. */
export class Host {
  readonly world: World;
  readonly name: string;
  /** By how much its wall clock is ahead of the world's. */
  wallAheadMs = 0;
  readonly #bootedAtMs: number;
  #state: HostState = 'running';
  /** What fell due while it was stopped. */
  #waiting: Event[] = [];

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    this.#bootedAtMs = world.nowMs - world.random.below(BOOTED_WITHIN_MS);
  }

  get state(): HostState {
    return this.#state;
  }

  /** As `performance.now()` tells it there. */
  get monotonicMs(): number {
    return this.world.nowMs - this.#bootedAtMs;
  }

  /** As `Date.now()` tells it there. */
  get wallMs(): number {
    return Math.floor(EPOCH_MS + this.world.nowMs + this.wallAheadMs);
  }

  /** Has something happen at this process after `delayMs`; never, where it is dead by then. */
  after(delayMs: number, run: () => void): () => void {
    return this.world.schedule(this, delayMs, run);
  }

  stop(): void {
    if (this.#state === 'running') this.#state = 'stopped';
  }

  resume(): void {
    if (this.#state !== 'stopped') return;
    this.#state = 'running';
    for (const { run } of this.#waiting.splice(0)) this.after(0, run);
  }

  kill(): void {
    this.#state = 'dead';
    this.#waiting = [];
  }

  /** Keeps what falls due while it is stopped. */
  wait(event: Event): void {
    this.#waiting.push(event);
  }
}

/**
 * A world in one thread: processes, one virtual clock, and one queue of what happens next. While it runs, `setTimeout` and its like,
 * `Date.now`, `performance.now` and `Math.random` are its own, so that the product's code runs in it as it is. Between two
 * events every promise has settled that could: an event belongs to one process, with all that follows from it at once. The
 * same seed makes the same run.
 */
export class World {
  readonly random: Random;
  /** Virtual milliseconds since the beginning. */
  nowMs = 0;
  /** How many events have happened. */
  events = 0;
  /** A number that tells two runs apart: of what happened where, and when. */
  trace = 0;
  /** What went wrong where nothing may. */
  readonly crashes: string[] = [];
  /** Told what happens, to follow a run; the text is made only where somebody listens. */
  onTold: ((text: string) => void) | undefined;
  /** Whose event is happening. */
  #current: Host;
  readonly #outside: Host;
  readonly #queue: Event[] = [];
  #numbers = 0;

  constructor(seed: number) {
    this.random = new Random(seed);
    this.#outside = new Host(this, 'outside');
    this.#current = this.#outside;
  }

  host(name: string): Host {
    return new Host(this, name);
  }

  /** Has something happen that belongs to no process: to an engine, or to the network. */
  after(delayMs: number, run: () => void): () => void {
    return this.schedule(this.#outside, delayMs, run);
  }

  schedule(host: Host, delayMs: number, run: () => void): () => void {
    const event: Event = {
      dueMs: this.nowMs + Math.max(0, delayMs),
      number: this.#numbers++,
      host,
      run,
      cancelled: false,
    };
    this.#push(event);
    return () => {
      event.cancelled = true;
    };
  }

  /** Begins a host's code from outside an event, as the first of its events. */
  at<T>(host: Host, run: () => T): T {
    const before = this.#current;
    this.#current = host;
    try {
      return run();
    } finally {
      this.#current = before;
    }
  }

  tell(who: string, what: () => string): void {
    this.onTold?.(`${this.nowMs.toFixed(1).padStart(10)} ${who}: ${what()}`);
  }

  /** Runs until `done` says so, or for `forMs` of virtual time. Resolves with whether it was done. */
  async run(forMs: number, done: () => boolean = () => false): Promise<boolean> {
    const untilMs = this.nowMs + forMs;
    while (!done()) {
      const next = this.#queue[0];
      if (!next || next.dueMs > untilMs) {
        this.nowMs = untilMs;
        return done();
      }
      this.#pop();
      if (next.cancelled || next.host.state === 'dead') continue;
      if (next.host.state === 'stopped') {
        next.host.wait(next);
        continue;
      }
      this.nowMs = next.dueMs;
      this.events++;
      this.trace = (Math.imul(this.trace, 31) + next.number + Math.round(next.dueMs * 1000)) | 0;
      this.#current = next.host;
      try {
        next.run();
      } catch (error) {
        this.crashes.push(`${next.host.name}: ${(error as Error).stack}`);
      }
      await settled();
      this.#current = this.#outside;
    }
    return true;
  }

  /** Takes the place of the globals until disposed. */
  install(): Disposable {
    const timer = (delayMs: number, run: () => void, every: boolean): Timer =>
      new Timer(this.#current, delayMs, run, every);
    const set =
      (every: boolean) =>
      (run: (...args: unknown[]) => void, ms?: number, ...args: unknown[]) =>
        timer(Math.max(1, ms ?? 1), () => run(...args), every);
    const clear = (timer: unknown) => {
      if (timer instanceof Timer) timer.cancel();
      else real.clearTimeout(timer as NodeJS.Timeout);
    };
    Object.assign(globalThis, {
      setTimeout: set(false),
      setInterval: set(true),
      setImmediate: (run: (...args: unknown[]) => void, ...args: unknown[]) => timer(0, () => run(...args), false),
      clearTimeout: clear,
      clearInterval: clear,
      clearImmediate: clear,
    });
    Date.now = () => this.#current.wallMs;
    Object.defineProperty(performance, 'now', { value: () => this.#current.monotonicMs, configurable: true });
    Math.random = () => this.random.fraction();
    const rejected = (error: unknown) => {
      this.crashes.push(`${this.#current.name}: a promise was rejected: ${(error as Error)?.stack ?? error}`);
    };
    process.on('unhandledRejection', rejected);
    return {
      [Symbol.dispose]: () => {
        const { now, performanceNow, random, ...timers } = real;
        Object.assign(globalThis, timers);
        Date.now = now;
        Object.defineProperty(performance, 'now', { value: performanceNow, configurable: true });
        Math.random = random;
        process.off('unhandledRejection', rejected);
      },
    };
  }

  // A binary heap: the earliest first, and of those due together the one that was scheduled first.

  #push(event: Event): void {
    const queue = this.#queue;
    let at = queue.length;
    queue.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, queue[parent] as Event)) break;
      queue[at] = queue[parent] as Event;
      at = parent;
    }
    queue[at] = event;
  }

  #pop(): void {
    const queue = this.#queue;
    const last = queue.pop() as Event;
    if (queue.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= queue.length) break;
      if (child + 1 < queue.length && isBefore(queue[child + 1] as Event, queue[child] as Event)) child++;
      if (!isBefore(queue[child] as Event, last)) break;
      queue[at] = queue[child] as Event;
      at = child;
    }
    queue[at] = last;
  }
}

/** What `setTimeout` and its like return. */
class Timer {
  readonly #host: Host;
  readonly #delayMs: number;
  readonly #run: () => void;
  readonly #every: boolean;
  #cancel: () => void = () => {};

  constructor(host: Host, delayMs: number, run: () => void, every: boolean) {
    this.#host = host;
    this.#delayMs = delayMs;
    this.#run = run;
    this.#every = every;
    this.#arm();
  }

  cancel(): void {
    this.#cancel();
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  #arm(): void {
    this.#cancel = this.#host.after(this.#delayMs, () => {
      if (this.#every) this.#arm();
      this.#run();
    });
  }
}

/** A way to a process or an engine: what is sent along it arrives in order, however long each thing takes. */
export class Way {
  readonly #world: World;
  readonly #to: Pick<World, 'after'>;
  #lastMs = 0;

  constructor(world: World, to: Pick<World, 'after'>) {
    this.#world = world;
    this.#to = to;
  }

  /** @param arrivalMs when it would arrive with nothing before it. */
  send(arrivalMs: number, then: () => void): void {
    this.#lastMs = Math.max(this.#lastMs, arrivalMs);
    this.#to.after(this.#lastMs - this.#world.nowMs, then);
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.number < b.number);
}

/** Resolves when every promise has settled that does not wait for an event. */
function settled(): Promise<void> {
  return new Promise((resolve) => real.setImmediate(resolve));
}
