import { readFileSync } from 'node:fs';

/** A conversation of the ChatterBot corpus, see conversations/NOTICE. */
export interface Conversation {
  language: string;
  topic: string;
  /** What the two say in turn. */
  turns: string[];
}

/** One message to send. */
export interface Turn {
  language: string;
  /** 0 or 1: which of the two says it. */
  speaker: number;
  text: string;
  /** True for the first two turns of each language: those are shown. */
  sample: boolean;
}

/** The demo in three parts; in the middle one everything comes from the first speaker, since the other is away. */
export interface Script {
  together: Turn[];
  away: Turn[];
  reunited: Turn[];
}

const leastAway = 100;

/** The conversations that the package ships, grouped by language. */
export function readConversations(): Conversation[] {
  const file = new URL('../../conversations/conversations.jsonl', import.meta.url);
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Conversation);
}

/**
 * Lays out a number of turns: first a conversation in each language, then another in each, and so on, from the beginning
 * again when they are used up. A quarter of the turns, and at least 100 where there are as many, falls into the absence.
 * @param count how many turns; all of the conversations' once, unless given
 */
export function writeScript(conversations: readonly Conversation[], count?: number): Script {
  const turns = layOut(conversations, count ?? conversations.reduce((sum, { turns }) => sum + turns.length, 0));
  const away = Math.min(Math.ceil(turns.length / 2), Math.max(leastAway, Math.floor(turns.length / 4)));
  const from = Math.ceil((turns.length - away) / 2);
  return {
    together: turns.slice(0, from),
    away: turns.slice(from, from + away).map((turn) => ({ ...turn, speaker: 0 })),
    reunited: turns.slice(from + away),
  };
}

function layOut(conversations: readonly Conversation[], count: number): Turn[] {
  const turns: Turn[] = [];
  const rounds = roundRobin(conversations);
  const sampled = new Set<string>();
  for (let round = 0; turns.length < count && rounds.length > 0; round++) {
    const { language, turns: texts } = rounds[round % rounds.length] as Conversation;
    const sample = !sampled.has(language);
    sampled.add(language);
    for (const [i, text] of texts.entries()) {
      turns.push({ language: nameOf(language), speaker: (round + i) % 2, text, sample: sample && i < 2 });
    }
  }
  return turns.slice(0, count);
}

/** The first conversation of each language, then the second of each, and so on. */
function roundRobin(conversations: readonly Conversation[]): Conversation[] {
  const seen = new Map<string, number>();
  return conversations
    .map((conversation) => {
      const round = seen.get(conversation.language) ?? 0;
      seen.set(conversation.language, round + 1);
      return { conversation, round };
    })
    .sort((a, b) => a.round - b.round)
    .map(({ conversation }) => conversation);
}

function nameOf(language: string): string {
  if (language === 'traditionalchinese') return 'Chinese (trad.)';
  return language.charAt(0).toUpperCase() + language.slice(1);
}
