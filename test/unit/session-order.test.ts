import { type AnnouncedSession, type OrderedSession, orderBeside, placeOf } from '@chatmesh/chat/domain/session-order';
import { describe, expect, test } from '@jest/globals';

const NOW_MS = 1_800_000_000_000;

interface Began {
  readonly edgeId: string;
  readonly session: number;
  /** Milliseconds before the announcements. */
  readonly ageMs: number;
  /** What an owner had given it; 0 where none had seen it. */
  readonly order: number;
}

/** The session that a device has after these announcements, and what its edge was told. */
function heldAfter(announcements: readonly Began[]): OrderedSession | undefined {
  let held: OrderedSession | undefined;
  let highest = 0;
  for (const { edgeId, session, ageMs, order } of announcements) {
    if (held?.edgeId === edgeId && held.session === session) continue;
    const announced: AnnouncedSession = { edgeId, session, ...placeOf(order, ageMs, NOW_MS) };
    const given = orderBeside(announced, held, highest);
    if (given === undefined) continue;
    highest = Math.max(highest, given);
    held = { edgeId, session, order: given };
  }
  return held;
}

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]];
  return items.flatMap((item, i) =>
    permutations([...items.slice(0, i), ...items.slice(i + 1)]).map((rest) => [item, ...rest]),
  );
}

describe('the order of a device’s sessions', () => {
  const session = (edgeId: string, ageMs: number, order: number): Began => ({ edgeId, session: 1, ageMs, order });

  test('of any number of sessions the one that began last stays, in whatever sequence they are announced, and however often', () => {
    const seen = [0, 1, 2, 3].map((i) => session(`edge ${i}`, 400_000 - i * 1_000, NOW_MS - 400_000 + i * 1_000));
    const unseen = seen.map((began) => ({ ...began, order: 0 }));
    for (let mask = 0; mask < 16; mask++) {
      const began = seen.map((one, i) => ((mask >> i) & 1 ? one : (unseen[i] as Began)));
      for (const order of permutations(began)) expect(heldAfter([...order, ...order])?.edgeId).toBe('edge 3');
    }
  });

  test('one that has just begun is newer than all others, whatever the clocks have said', () => {
    const ahead = session('ahead', 60_000, NOW_MS + 3_600_000);
    const fresh = session('fresh', 0, 0);
    expect(heldAfter([ahead, fresh])).toMatchObject({ edgeId: 'fresh', order: NOW_MS + 3_600_001 });
    // And stays so when the other one comes again.
    expect(heldAfter([ahead, fresh, ahead])?.edgeId).toBe('fresh');
  });

  test('one that could not be announced when it began is not new any more', () => {
    const stopped = session('stopped', 30_000, 0);
    const later = session('later', 20_000, NOW_MS - 20_000);
    expect(heldAfter([later, stopped])?.edgeId).toBe('later');
    expect(heldAfter([stopped, later])?.edgeId).toBe('later');
  });

  test('an older one is attached where there is no other, and keeps its place', () => {
    expect(heldAfter([session('old', 60_000, 17)])?.order).toBe(17);
    expect(orderBeside({ edgeId: 'old', session: 1, order: 17, isNew: false }, undefined, 99)).toBe(17);
  });

  test('one edge’s sessions are in the order of their numbers', () => {
    const older = { edgeId: 'edge', session: 1, ageMs: 0, order: 0 };
    const newer = { edgeId: 'edge', session: 2, ageMs: 5_000, order: 0 };
    for (const order of permutations([older, newer])) expect(heldAfter(order)?.session).toBe(2);
    // The second one began earlier than the first, if clocks are to be believed.
    expect(heldAfter([older, newer])?.order).toBe(NOW_MS + 1);
  });
});
