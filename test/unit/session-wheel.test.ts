import { SessionWheel, TURN_MS } from '@chatmesh/edge/domain/session-wheel';
import { expect, test } from '@jest/globals';

const SESSIONS = 100_000;
const ROUND = 25;
const SILENT = 61;

/** A session whose client answers each ping, as long as it is there, with a frame or with a part of one. */
class FakeSession {
  readonly number: number;
  expiresAtMs = Number.MAX_VALUE;
  present = true;
  pings = 0;
  heardAtTurn = 0;
  seenBytes = 0;
  paused = false;
  readonly sink;
  readonly #turns: () => number;

  constructor(number: number, turns: () => number, looked: () => void = () => {}) {
    this.number = number;
    this.#turns = turns;
    this.sink = {
      bytes: 0,
      bufferedBytes: 0,
      ping: () => this.#pinged(),
      get receivedBytes() {
        looked();
        return this.bytes;
      },
    };
  }

  #pinged(): void {
    this.pings++;
    if (!this.present) return;
    this.heardAtTurn = this.#turns();
    this.sink.bytes += 6;
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
  const all = Array.from({ length: count }, (_, i) => new FakeSession(i + 1, () => sessions.turns, looked));
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

test('a session of which nothing is heard for 60 s is over within the next two turns, wherever it stands in the round', () => {
  const { all, ends, turn } = wheel(ROUND);
  turn(ROUND);
  const gone = all.map((session) => {
    session.present = false;
    return `${session.number} silent at ${session.heardAtTurn + SILENT} s`;
  });
  turn(2 * SILENT);
  expect(ends.toSorted()).toEqual(gone.toSorted());
});

test('a session that is heard of in time stays', () => {
  const { all, ends, turn } = wheel(ROUND);
  for (const session of all) session.present = false;
  turn(SILENT - 1);
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

test('a session of whose frames only parts come stays as long as there are bytes', () => {
  const { all, ends, turn } = wheel(ROUND);
  for (const session of all) session.present = false;
  for (let i = 0; i < 3 * SILENT; i++) {
    for (const session of all) session.sink.bytes += 800;
    turn(1);
  }
  expect(ends).toEqual([]);
  turn(SILENT - 2);
  expect(ends).toEqual([]);
  turn(ROUND + 1);
  expect(ends).toHaveLength(ROUND);
});

test('a session is not silent while nothing is read from it, unless what it is sent stands still', () => {
  const { all, ends, turn } = wheel(2);
  const [unread, stuck] = all as [FakeSession, FakeSession];
  for (const session of all) Object.assign(session, { present: false, paused: true });
  stuck.sink.bufferedBytes = 2 ** 20;
  turn(3 * SILENT);
  expect(ends).toEqual([`${stuck.number} silent at ${SILENT} s`]);
  unread.paused = false;
  turn(SILENT + ROUND);
  expect(ends).toHaveLength(2);
});

test('while the process stands still nobody is silent: the next turn is one turn later, however late', () => {
  const { sessions, all, ends, turn } = wheel(ROUND);
  turn(ROUND + 10);
  for (const session of all) session.present = false;
  turn(20);
  sessions.turn(Date.UTC(2026, 2, 1));
  for (const session of all) session.present = true;
  turn(4 * ROUND);
  expect(ends).toEqual([]);
});
