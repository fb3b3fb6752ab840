import { randomUUID } from 'node:crypto';
import type { EdgeSession, PresenceStore } from '@chatmesh/presence';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { until } from './engine.js';

const LEASE_MS = 15_000;

/** What every presence store promises. `open` makes an empty one on the given clock. */
export function presenceStoreContract(engine: string, open: (now: () => number) => Promise<PresenceStore>): void {
  describe(`presence on ${engine}`, () => {
    let store: PresenceStore;
    let nowMs: number;
    let edgeId: string;

    beforeEach(async () => {
      nowMs = Date.UTC(2026, 2, 1);
      edgeId = randomUUID();
      store = await open(() => nowMs);
    });

    afterEach(async () => {
      await store[Symbol.asyncDispose]();
    });

    interface Change {
      readonly at?: string;
      readonly opened?: EdgeSession[];
      readonly closed?: EdgeSession[];
    }

    const report = (full: boolean, { at = edgeId, opened = [], closed = [] }: Change) =>
      store.report({ edgeId: at, leaseMs: LEASE_MS, full, opened, closed });
    const everything = (change: Change = {}) => report(true, change);
    const changes = (change: Change = {}) => report(false, change);

    test('a session is found with its edge from its report on, and not after its end', async () => {
      await everything();
      const session = newSession();
      expect(await changes({ opened: [session] })).toEqual({ known: true });
      expect(await store.sessionsOf([session.userId])).toEqual([{ ...session, edgeId }]);
      await changes({ closed: [session] });
      expect(await store.sessionsOf([session.userId])).toEqual([]);
    });

    test('all sessions of the users asked for are found, of all devices and edges, and nobody else', async () => {
      const other = randomUUID();
      const [ada, bob, eve] = [newSession(), newSession(), newSession()];
      const laptop = newSession(ada.userId);
      await everything({ opened: [ada, bob, eve] });
      await everything({ at: other, opened: [laptop] });
      const found = await store.sessionsOf([ada.userId, bob.userId, randomUUID()]);
      expect(found).toHaveLength(3);
      expect(found).toEqual(
        expect.arrayContaining([
          { ...ada, edgeId },
          { ...bob, edgeId },
          { ...laptop, edgeId: other },
        ]),
      );
    });

    test('a session that began and ended between two reports is gone', async () => {
      await everything();
      const session = newSession();
      await changes({ opened: [session], closed: [session] });
      expect(await store.sessionsOf([session.userId])).toEqual([]);
    });

    test('a repeated report changes nothing', async () => {
      await everything();
      const session = newSession();
      await changes({ opened: [session] });
      await changes({ opened: [session] });
      expect(await store.sessionsOf([session.userId])).toHaveLength(1);
      await changes({ closed: [session] });
      await changes({ closed: [session] });
      expect(await store.sessionsOf([session.userId])).toEqual([]);
    });

    test('a newer session of the same device stays when the older one ends', async () => {
      const older = newSession();
      const newer = { ...older, session: older.session + 1 };
      await everything({ opened: [older] });
      await changes({ opened: [newer] });
      await changes({ closed: [older] });
      expect(await store.sessionsOf([older.userId])).toEqual([{ ...newer, edgeId }]);
    });

    test('a full report replaces what was known of the edge, and of no other', async () => {
      const other = randomUUID();
      const [kept, dropped, elsewhere] = [newSession(), newSession(), newSession()];
      await everything({ opened: [kept, dropped] });
      await everything({ at: other, opened: [elsewhere] });
      await everything({ opened: [kept] });
      expect(await store.sessionsOf([kept.userId])).toEqual([{ ...kept, edgeId }]);
      expect(await store.sessionsOf([dropped.userId])).toEqual([]);
      expect(await store.sessionsOf([elsewhere.userId])).toHaveLength(1);
    });

    test('who watches a user is told when a session begins and when one ends, and not of others, nor after leaving', async () => {
      await everything();
      const [session, other] = [newSession(), newSession()];
      const told = { one: 0, two: 0, other: 0 };
      const leave = await store.watch(session.userId, () => told.one++);
      const leaveToo = await store.watch(session.userId, () => told.two++);
      await store.watch(other.userId, () => told.other++);
      // A watcher may be told without need when it begins: this is over when what follows is told.
      const tellsBoth = async (change: Change) => {
        const before = { ...told };
        await changes(change);
        await until(() => told.one > before.one && told.two > before.two, 'both are told');
      };
      await tellsBoth({ opened: [session] });
      const otherBefore = told.other;
      await tellsBoth({ closed: [session] });
      leave();
      leave();
      const { one, two } = told;
      await changes({ opened: [session] });
      await until(() => told.two > two, 'who has stayed is told');
      expect(told.one).toBe(one);
      expect(told.other).toBe(otherBefore);
      leaveToo();
      await changes({ opened: [other] });
      await until(() => told.other > otherBefore, 'others are told');
    });

    test('an unknown edge is asked for a full report, and nothing is taken before', async () => {
      const session = newSession();
      expect(await changes({ opened: [session] })).toEqual({ known: false });
      expect(await store.sessionsOf([session.userId])).toEqual([]);
      expect(await changes()).toEqual({ known: false });
      expect(await everything({ opened: [session] })).toEqual({ known: true });
      expect(await store.sessionsOf([session.userId])).toHaveLength(1);
    });

    test('sessions live as long as their edge reports, and end together with its lease', async () => {
      const sessions = Array.from({ length: 50 }, () => newSession());
      const users = sessions.map(({ userId }) => userId);
      await everything({ opened: sessions });
      for (let i = 0; i < 5; i++) {
        nowMs += LEASE_MS - 1;
        await changes();
      }
      expect(await store.sessionsOf(users)).toHaveLength(50);
      nowMs += LEASE_MS;
      expect(await store.sessionsOf(users)).toEqual([]);
    });

    test('the lease of one edge does not end sessions of another', async () => {
      const other = randomUUID();
      const [dying, living] = [newSession(), newSession()];
      await everything({ opened: [dying] });
      await everything({ at: other, opened: [living] });
      nowMs += LEASE_MS / 2;
      await changes({ at: other });
      nowMs += LEASE_MS / 2;
      expect(await store.sessionsOf([dying.userId, living.userId])).toEqual([{ ...living, edgeId: other }]);
    });

    test('an edge whose lease has run out is asked for a full report', async () => {
      const session = newSession();
      await everything({ opened: [session] });
      nowMs += LEASE_MS;
      expect(await changes()).toEqual({ known: false });
      await everything({ opened: [session] });
      expect(await store.sessionsOf([session.userId])).toHaveLength(1);
    });

    test('a user was last seen when the last session ended', async () => {
      const phone = newSession();
      const laptop = newSession(phone.userId);
      await everything({ opened: [phone, laptop] });
      nowMs += 1_000;
      await changes({ closed: [phone] });
      expect(await store.lastSeen([phone.userId])).toEqual(new Map());
      nowMs += 1_000;
      await changes({ closed: [laptop] });
      const endedAtMs = nowMs;
      nowMs += 1_000;
      expect(await store.lastSeen([phone.userId])).toEqual(new Map([[phone.userId, endedAtMs]]));
    });

    test('who is online, or was never seen, has no last seen', async () => {
      const session = newSession();
      await everything({ opened: [session] });
      await changes({ closed: [session] });
      await changes({ opened: [session] });
      expect(await store.lastSeen([session.userId, randomUUID()])).toEqual(new Map());
    });

    test("with an edge's lease its users were last seen at its last report", async () => {
      const session = newSession();
      await everything({ opened: [session] });
      nowMs += 5_000;
      await changes();
      const reportedAtMs = nowMs;
      nowMs += LEASE_MS;
      expect(await store.lastSeen([session.userId])).toEqual(new Map([[session.userId, reportedAtMs]]));
    });

    test('a full report does not make those who stay seem to have left', async () => {
      const [kept, dropped] = [newSession(), newSession()];
      await everything({ opened: [kept, dropped] });
      nowMs += 1_000;
      await everything({ opened: [kept] });
      expect(await store.lastSeen([kept.userId, dropped.userId])).toEqual(new Map([[dropped.userId, nowMs]]));
    });

    test('thousands of sessions come and go without one being mistaken for another', async () => {
      await everything();
      const sessions = Array.from({ length: 3_000 }, (_, i) => ({ ...newSession(), session: i }));
      await changes({ opened: sessions });
      const gone = sessions.filter((_, i) => i % 3 === 0);
      await changes({ closed: gone });
      const back = gone.slice(0, 500).map((session) => ({ ...session, deviceId: randomUUID() }));
      await changes({ opened: back });
      const expected = [...sessions.filter((_, i) => i % 3 !== 0), ...back];
      const found = await store.sessionsOf(sessions.map(({ userId }) => userId));
      const key = (session: EdgeSession) => `${session.userId} ${session.deviceId} ${session.session}`;
      expect(found.map(key).sort()).toEqual(expected.map(key).sort());
    });
  });
}

let number = 0;

function newSession(userId: string = randomUUID()): EdgeSession {
  return { userId, deviceId: randomUUID(), session: number++ };
}
