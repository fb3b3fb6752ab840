import type { EventEmitter } from 'node:events';
import { toMeshError } from './errors.js';
import type { MeshTls } from './grpc/tls.js';
import type { DirectoryLocks } from './lock.js';
import type { Logger, Metrics } from './observe.js';
import type { Traces } from './traces.js';

/** Something that is started, drained and closed with the process. */
export interface Service {
  readonly name: string;
  start(): Promise<void>;
  /** Stops taking, finishes what is in flight; after `deadlineMs` milliseconds it gives up what is left. */
  drain(deadlineMs: number): Promise<void>;
  /** Idempotent. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** What a process gives to each of its services. */
export interface ServiceDeps {
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Takes the directories of embedded stores, where other services of the process take some, too. */
  readonly locks?: DirectoryLocks;
  /** Where the mesh has certificates. */
  readonly tls?: MeshTls | undefined;
  /** Where some messages are followed. */
  readonly traces?: Traces | undefined;
}

export interface RunOptions {
  readonly logger: Logger;
  /** For draining all services together, milliseconds. */
  readonly drainMs: number;
  /** Where signals and uncaught errors come from: the process, unless a test says otherwise. */
  readonly signals?: Pick<EventEmitter, 'on' | 'off'>;
  readonly exit: (code: number) => void;
  /** Told of each service that runs. */
  readonly onStarted?: (service: Service) => void;
  /** Told before the first service drains: the process is no longer ready. */
  readonly onDraining?: () => void;
}

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;
const EXIT_FAILED = 1;
/** What a shell reports for a program that SIGINT ended. */
const EXIT_INTERRUPTED = 130;
/** Closing after the drain is expected to be short; a close that hangs must not keep the process. */
const DISPOSE_MS = 5_000;
/** A service knows its deadline: what it gives up at that moment is not late yet. */
const GRACE_MS = 500;

/**
 * Starts the services in order, and resolves when all run. SIGTERM or SIGINT drains them in reverse within one shared
 * deadline, closes them in reverse and exits with 0; a second signal exits at once. A start that fails closes in reverse
 * what had started, logs one sentence and exits with 1, as does an error that nobody caught.
 */
export async function runServices(services: readonly Service[], options: RunOptions): Promise<void> {
  const { logger, drainMs, exit } = options;
  // biome-ignore lint/style/noRestrictedGlobals: the one place that listens to the process on everybody's behalf.
  const signals = options.signals ?? process;
  const started: Service[] = [];
  let stopping: Promise<void> | undefined;

  const stop = async (signal: string) => {
    options.onDraining?.();
    logger.info({ signal }, `${signal}: draining for at most ${drainMs} ms`);
    const endsAt = performance.now() + drainMs;
    for (const service of started.toReversed()) {
      const leftMs = Math.max(0, endsAt - performance.now());
      await within(leftMs, service.drain(leftMs)).catch((error) => {
        logger.error({ err: error, service: service.name }, `${service.name} did not drain cleanly`);
      });
    }
    await dispose(started, logger);
    logger.info('stopped');
    release();
    exit(0);
  };
  const onSignal = (signal: string) => {
    if (stopping) {
      logger.warn({ signal }, `${signal} again: leaving without finishing the drain`);
      exit(EXIT_INTERRUPTED);
      return;
    }
    stopping = stop(signal);
  };
  const onUncaught = (error: unknown) => {
    logger.fatal({ err: error }, 'an error that nobody caught ends the process');
    exit(EXIT_FAILED);
  };
  for (const signal of SIGNALS) signals.on(signal, onSignal);
  signals.on('uncaughtException', onUncaught);
  signals.on('unhandledRejection', onUncaught);
  const release = () => {
    for (const signal of SIGNALS) signals.off(signal, onSignal);
    signals.off('uncaughtException', onUncaught);
    signals.off('unhandledRejection', onUncaught);
  };

  for (const service of services) {
    try {
      started.push(service);
      await service.start();
      // A signal during the start has drained and closed what was there.
      if (stopping) return await stopping;
      options.onStarted?.(service);
      logger.info({ service: service.name }, `${service.name} started`);
    } catch (error) {
      if (stopping) return await stopping;
      const { kind, message, cause } = toMeshError(error);
      const known = kind !== 'internal' || !cause;
      const reason = known ? message : error instanceof Error ? error.message : String(error);
      logger.fatal(known ? {} : { err: error }, `${service.name} cannot start: ${reason}`);
      await dispose(started, logger);
      release();
      exit(EXIT_FAILED);
      return;
    }
  }
}

async function dispose(services: readonly Service[], logger: Logger): Promise<void> {
  for (const service of services.toReversed()) {
    await within(DISPOSE_MS, service[Symbol.asyncDispose]()).catch((error) => {
      logger.error({ err: error, service: service.name }, `${service.name} did not close cleanly`);
    });
  }
}

/** Settles with `work`, or rejects after `ms` milliseconds. */
async function within(ms: number, work: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done within ${Math.round(ms)} ms`)), ms + GRACE_MS);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
