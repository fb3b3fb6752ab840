/** Milliseconds since 1970. */
export type Clock = () => number;

/** A clock that never goes back, whatever the one below does. */
export function monotonic(clock: Clock): Clock {
  let last = 0;
  return () => {
    last = Math.max(last, clock());
    return last;
  };
}
