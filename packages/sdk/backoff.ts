const firstDelayMs = 250;
/** The bound of all backoffs, unless said otherwise. */
export const longestDelayMs = 30_000;

/**
 * Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", 2015): anything between nothing and
 * a bound that doubles with each attempt, so that clients that lost the same server do not return together.
 * @param attempt 0 for the first
 * @param longestMs the highest bound
 */
export function backoffMs(attempt: number, longestMs: number): number {
  return Math.random() * Math.min(longestMs, firstDelayMs * 2 ** attempt);
}

/** Resolves after `delayMs`, or at once when the signal aborts. */
export function pause(delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, delayMs);
    if (signal.aborted) end();
    else signal.addEventListener('abort', end);
  });
}
