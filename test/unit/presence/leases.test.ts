import { randomUUID } from 'node:crypto';
import type { MonotonicClock } from '@chatmesh/mesh';
import { MemoryPresenceStore } from '@chatmesh/presence';
import { describe, expect, test } from '@jest/globals';

describe('leases in memory', () => {
  test('a step of the wall clock, either way, ends no lease and prolongs none; last seen is told by the wall clock', async () => {
    let wallMs = Date.UTC(2026, 2, 1);
    let passedMs = 0;
    const store = new MemoryPresenceStore({ now: () => wallMs, monotonicMs: (() => passedMs) as MonotonicClock });
    const [edgeId, userId] = [randomUUID(), randomUUID()];
    const opened = [{ userId, deviceId: randomUUID(), session: 1 }];
    await store.report({ edgeId, leaseMs: 15_000, full: true, opened, closed: [] });
    for (const stepMs of [70_000, -600_000, 3_600_000]) {
      wallMs += stepMs;
      passedMs += 4_000;
      expect(await store.sessionsOf([userId])).toHaveLength(1);
      expect(await store.report({ edgeId, leaseMs: 15_000, full: false, opened: [], closed: [] })).toEqual({
        known: true,
      });
    }
    const reportedAtMs = wallMs;
    wallMs -= 600_000;
    passedMs += 15_000;
    expect(await store.sessionsOf([userId])).toEqual([]);
    expect(await store.lastSeen([userId])).toEqual(new Map([[userId, reportedAtMs]]));
  });
});
