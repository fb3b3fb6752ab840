import { SessionWheel, TURN_MS } from '@chatmesh/edge/domain/session-wheel';
import { expect, test } from '@jest/globals';

const SESSIONS = 100_000;
const ROUND = 25;
const SILENT_MS = 60_000;

/** A session whose client answers each ping, as long as it is there. */
class FakeSession {
  readonly number: number;
  expiresAtMs = Number.MAX_VALUE;
  present = true;
  pings = 0;
  #lastHeardAtMs = 0;
  readonly sink = { ping: () => this.#pinged() };
  readonly #looked: () => void;
  readonly #now: () => number;

  constructor(number: number, now: () => number, looked: () => void = () => {}) {
    this.number = number;
    this.#now = now;
    this.#looked = looked;
  }

  get lastHeardAtMs(): number {
    this.#looked();
    return this.#lastHeardAtMs;
  }

  #pinged(): void {
    this.pings++;
    if (this.present) this.#lastHeardAtMs = this.#now();
  }
}

function wheel(count: number, looked?: () => void) {
  const ends: string[] = [];
  let nowMs = 0;
  const sessions = new SessionWheel<FakeSession>({
    expired: (session) => end(session, 'expired'),
    silent: (session) => end(session, 'silent'),
  });
  const end = (session: FakeSession, why: string) => {
    ends.push(`${session.number} ${why} at ${nowMs / 1000} s`);
    sessions.delete(session);
  };
  const all = Array.from({ length: count }, (_, i) => new FakeSession(i + 1, () => nowMs, looked));
  for (const session of all) sessions.add(session, nowMs);
  const turn = (times: number) => {
    for (let i = 0; i < times; i++) {
      nowMs += TURN_MS;
      sessions.turn(nowMs);
    }
  };
  return { sessions, all, ends, turn, now: () => nowMs };
}

test('a second costs 100,000 idle sessions nothing but the pings of a 25th of them', () => {
  let looks = 0;
  const { all, ends, turn } = wheel(SESSIONS, () => looks++);
  let pinged = 0;
  for (let second = 0; second < ROUND; second++) {
    looks = 0;
    turn(1);
    const pings = all.reduce((sum, session) => sum + session.pings, 0);
    expect(pings - pinged).toBe(SESSIONS / ROUND);
    expect(looks).toBeLessThanOrEqual(SESSIONS / ROUND);
    pinged = pings;
  }
  expect(new Set(all.map(({ pings }) => pings))).toEqual(new Set([1]));
  expect(ends).toEqual([]);
});

test('a session of which nothing is heard for 60 s is over within the next turn, wherever it stands in the round', () => {
  const { all, ends, turn } = wheel(ROUND);
  turn(ROUND);
  const gone = all.map((session) => {
    session.present = false;
    return `${session.number} silent at ${(session.lastHeardAtMs + SILENT_MS) / 1000} s`;
  });
  turn((2 * SILENT_MS) / TURN_MS);
  expect(ends.toSorted()).toEqual(gone.toSorted());
});

test('a session that is heard of in time stays', () => {
  const { all, ends, turn } = wheel(ROUND);
  for (const session of all) session.present = false;
  turn(SILENT_MS / TURN_MS - 1);
  for (const session of all) {
    session.present = true;
    session.sink.ping();
  }
  turn(4 * ROUND);
  expect(ends).toEqual([]);
});

test('a session ends when its token expires, unless it got a fresh one, which may expire sooner or later', () => {
  const { sessions, all, ends, turn, now } = wheel(4);
  const [expiring, renewed, shortened] = all as [FakeSession, FakeSession, FakeSession];
  expiring.expiresAtMs = 100_000;
  renewed.expiresAtMs = 100_000;
  turn(90);
  renewed.expiresAtMs = 1_000_000;
  sessions.look(renewed, now());
  shortened.expiresAtMs = 92_500;
  sessions.look(shortened, now());
  turn(90);
  expect(ends).toEqual(['3 expired at 93 s', '1 expired at 100 s']);
  expect(sessions.size).toBe(2);
});

test('a session that has ended is not looked at any more', () => {
  const { sessions, all, ends, turn } = wheel(2);
  const [one] = all as [FakeSession];
  one.expiresAtMs = 10_000;
  sessions.look(one, 0);
  sessions.delete(one);
  sessions.delete(one);
  turn(100);
  expect([ends, one.pings, sessions.size, [...sessions].length]).toEqual([[], 0, 1, 1]);
});
