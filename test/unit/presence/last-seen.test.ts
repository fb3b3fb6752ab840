import { randomUUID } from 'node:crypto';
import { monotonicMs } from '@chatmesh/mesh';
import { MemoryPresenceStore } from '@chatmesh/presence';
import { describe, expect, test } from '@jest/globals';

describe('last seen in memory', () => {
  const leave = async (store: MemoryPresenceStore, userId: string) => {
    const session = { userId, deviceId: randomUUID(), session: 1 };
    await store.report({ edgeId: randomUUID(), leaseMs: 1_000, full: true, opened: [session], closed: [session] });
  };

  test('is kept of so many users only, and those who left first are forgotten first', async () => {
    const store = new MemoryPresenceStore({ now: () => 5_000, monotonicMs, maxLastSeen: 2 });
    const users = [randomUUID(), randomUUID(), randomUUID()];
    for (const user of users) await leave(store, user);
    expect([...(await store.lastSeen(users)).keys()]).toEqual(users.slice(1));
  });

  test('leaving again counts as leaving last', async () => {
    const store = new MemoryPresenceStore({ now: () => 5_000, monotonicMs, maxLastSeen: 2 });
    const users = [randomUUID(), randomUUID(), randomUUID()] as const;
    for (const user of [users[0], users[1], users[0], users[2]]) await leave(store, user);
    expect([...(await store.lastSeen(users)).keys()]).toEqual([users[0], users[2]]);
  });

  test('is forgotten after its time', async () => {
    let nowMs = 5_000;
    const store = new MemoryPresenceStore({ now: () => nowMs, monotonicMs, lastSeenTtlMs: 60_000 });
    const user = randomUUID();
    await leave(store, user);
    nowMs += 59_999;
    expect((await store.lastSeen([user])).get(user)).toBe(5_000);
    nowMs += 1;
    expect((await store.lastSeen([user])).size).toBe(0);
  });
});
