import { styleText } from 'node:util';

/** What a command may touch of its process; tests pass their own. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  /** True when standard output is a terminal. */
  readonly interactive: boolean;
  /** Width of the terminal in columns. */
  readonly columns: number;
  /** One line on standard output. */
  out(line: string): void;
  /** One line on standard error. */
  err(line: string): void;
  /** Replaces the current line of an interactive terminal, until the next `out`; else nothing. */
  progress(line: string): void;
  /** Aborts when the user interrupts. */
  readonly signal: AbortSignal;
}

type Style = 'bold' | 'dim' | 'red' | 'green' | 'blue' | 'cyan';

/** Colours, where somebody sees them and has not declined (https://no-color.org). */
export function painter({ interactive, env }: Terminal): (style: Style, text: string) => string {
  const plain = !interactive || (env.NO_COLOR ?? '') !== '' || env.TERM === 'dumb';
  return (style, text) => (plain ? text : styleText(style, text));
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const control = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const rightToLeft = /[\p{Script=Hebrew}\p{Script=Arabic}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;
const wide =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Emoji_Presentation}\u3000-\u303f\uff01-\uff60]/u;
const invisible = /^[\p{Mn}\p{Me}\p{Cf}]/u;
const graphemes = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

/**
 * A message's text for one line of a terminal: it can neither move the cursor nor turn the direction of what follows.
 * @param columns longer texts are cut
 */
export function printable(text: string, columns = Number.POSITIVE_INFINITY): string {
  const line = cut(text.replaceAll('\n', ' ⏎ ').replace(control, '�'), columns);
  // First strong isolate and its end: punctuation at the end of a right-to-left text stays at its end.
  return rightToLeft.test(line) ? `\u2068${line}\u2069` : line;
}

/** How many columns a text takes, as far as that can be known: East Asian scripts and emoji take two a character. */
export function widthOf(text: string): number {
  let columns = 0;
  for (const { segment } of graphemes.segment(text)) {
    if (!invisible.test(segment)) columns += wide.test(segment) ? 2 : 1;
  }
  return columns;
}

function cut(text: string, columns: number): string {
  if (widthOf(text) <= columns) return text;
  let kept = '';
  let left = columns - 1;
  for (const { segment } of graphemes.segment(text)) {
    left -= widthOf(segment);
    if (left < 0) break;
    kept += segment;
  }
  return `${kept}…`;
}
