/**
 * How often something random is repeated: `few` times with `npm test`, `many` times where `LONG_TESTS=true`, as in CI. Each
 * repetition is judged alike.
 */
export function repeats(few: number, many: number): number {
  return process.env.LONG_TESTS === 'true' ? many : few;
}
