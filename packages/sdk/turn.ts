/** Runs something in the next turn of the event loop, when all promises that are settled have been acted upon. */
export const nextTurn: (run: () => void) => void =
  typeof setImmediate === 'function' ? (run) => void setImmediate(run) : (run) => void setTimeout(run, 0);
