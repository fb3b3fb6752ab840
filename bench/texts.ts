import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The conversations that the command line's demo plays; JSON lines with `turns`. */
const CONVERSATIONS = fileURLToPath(new URL('../../packages/cli/conversations', import.meta.url));
const MIN_CODE_POINTS = 100;
const PLAIN =
  'The five boxing wizards jump quickly past the lazy dog while sphinxes of black quartz judge their vows. ';

/** So many texts of at least 100 code points: real conversations in many languages where the repository has them. */
export function texts(count: number): string[] {
  const real = realTexts();
  return Array.from({ length: count }, (_, index) => real[index % real.length] ?? PLAIN);
}

/** So many texts as long as one may be: 1,000 code points, of four bytes of UTF-8 each. */
export function longTexts(count: number): string[] {
  return Array.from({ length: count }, () => '\u{20000}'.repeat(1_000));
}

function realTexts(): string[] {
  if (!existsSync(CONVERSATIONS)) return [];
  const lines = readdirSync(CONVERSATIONS)
    .filter((name) => name.endsWith('.jsonl'))
    .flatMap((name) => readFileSync(`${CONVERSATIONS}/${name}`, 'utf8').split('\n'))
    .filter((line) => line.length > 0);
  return lines
    .map((line) => (JSON.parse(line) as { turns: string[] }).turns.join(' '))
    .filter((text) => Array.from(text).length >= MIN_CODE_POINTS);
}
