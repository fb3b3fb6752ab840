import { sleep } from './abort.js';
import { MeshError } from './errors.js';
import type { Logger } from './observe.js';

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

/**
 * Repeats `work` while it fails as `unavailable`, with pauses that grow to five seconds, and says so in the log each time: what
 * a service does at its start when an engine is down.
 *
 * @param what the engine, for the log.
 * @throws MeshError `cancelled` when the signal fires, and whatever else `work` throws.
 */
export async function untilAvailable<T>(
  what: string,
  work: () => Promise<T>,
  { signal, logger }: { signal: AbortSignal; logger: Logger },
): Promise<T> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof MeshError) || error.kind !== 'unavailable') throw error;
      const reason = error.cause instanceof Error ? error.cause.message : error.message;
      logger.warn({ reason, retryInMs: pauseMs }, `${what} does not answer yet: this start waits for it`);
      await sleep(pauseMs, { signal });
    }
  }
}
