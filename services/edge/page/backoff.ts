const FIRST_DELAY_MS = 250;
const LONGEST_DELAY_MS = 30_000;

/**
 * Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", 2015): anything between nothing and
 * a bound that doubles with each attempt, so that pages that lost the same server do not return together.
 *
 * @param attempt 0 for the first
 */
export function backoffMs(attempt: number): number {
  return Math.random() * Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** attempt);
}

/** Resolves after `delayMs`, or at once when the signal fires. */
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
