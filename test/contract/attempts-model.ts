import type { Attempt, Attempted, Attempts } from '@chatmesh/chat';

const SENDER_TTL_MS = 120_000;
const ATTEMPT_TTL_MS = 60_000;

interface Kept {
  readonly value: string;
  readonly untilMs: number;
}

/** What a store of attempts has to answer, kept in the simplest way. */
export class AttemptsModel {
  readonly #nowMs: () => number;
  readonly #senders = new Map<string, Kept & { readonly latestMs: number }>();
  readonly #first = new Map<string, Kept>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** As one router reaches it. */
  of(router: string): Attempts {
    return { begin: async (...args) => this.begin(router, ...args) };
  }

  begin(router: string, senderId: string, atMs: number, attempts: readonly Attempt[]): Attempted {
    const nowMs = this.#nowMs();
    const known = this.#senders.get(senderId);
    const before = known && known.untilMs > nowMs ? known : undefined;
    const latestMs = Math.max(atMs, before?.latestMs ?? 0);
    this.#senders.set(senderId, { value: router, latestMs, untilMs: nowMs + SENDER_TTL_MS });
    const first = attempts.map(({ serverMessageId, fingerprint }) => {
      const key = `${senderId}/${serverMessageId}`;
      const attempted = this.#first.get(key);
      if (attempted && attempted.untilMs > nowMs) return attempted.value;
      this.#first.set(key, { value: fingerprint, untilMs: nowMs + ATTEMPT_TTL_MS });
      return undefined;
    });
    return {
      before: !before ? 'nobody' : before.value === router ? 'here' : 'elsewhere',
      latestMs: before?.latestMs ?? 0,
      first,
    };
  }
}

/** The answer where the store is away. */
export function nothingKnown(attempts: readonly Attempt[]): Attempted {
  return { before: 'unknown', latestMs: 0, first: attempts.map(() => undefined) };
}
