import { MeshClock } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

const DAY_MS = 24 * 3_600_000;

describe('the time at which messages are accepted', () => {
  let ownMs = 0;
  const clock = () => {
    ownMs = 1_000_000;
    return new MeshClock(() => ownMs);
  };

  test("is this process' own, and never goes back", () => {
    const time = clock();
    expect(time.now()).toBe(1_000_000);
    ownMs = 999_000;
    expect(time.now()).toBe(1_000_000);
    ownMs = 1_000_001;
    expect(time.now()).toBe(1_000_001);
  });

  test('is no earlier than what was heard from others, and its own again when that has passed', () => {
    const time = clock();
    expect(time.hear(1_005_000)).toBe(true);
    expect(time.hear(1_004_000)).toBe(true);
    expect(time.heardMs).toBe(1_005_000);
    expect(time.now()).toBe(1_005_000);
    ownMs = 1_004_999;
    expect(time.now()).toBe(1_005_000);
    ownMs = 1_005_007;
    expect(time.now()).toBe(1_005_007);
  });

  test('is not taken along by a clock that is more than a day ahead', () => {
    const time = clock();
    expect(time.hear(1_000_000 + DAY_MS + 1)).toBe(false);
    expect(time.now()).toBe(1_000_000);
    expect(time.heardMs).toBe(0);
    expect(time.hear(1_000_000 + DAY_MS)).toBe(true);
  });

  test('goes along with the others when the own clock was set back, however far', () => {
    const time = clock();
    time.now();
    ownMs -= 2 * DAY_MS;
    for (let ms = 1_000_000; ms < 1_005_000; ms += 1_000) {
      expect(time.hear(ms)).toBe(true);
      expect(time.now()).toBe(ms);
    }
    expect(time.aheadMs).toBe(2 * DAY_MS + 4_000);
  });

  test('goes on from what users were told before this process started, however far ahead', () => {
    const time = clock();
    time.goOnFrom(1_000_000 + 100 * DAY_MS);
    expect(time.now()).toBe(1_000_000 + 100 * DAY_MS);
    expect(time.aheadMs).toBe(100 * DAY_MS);
    ownMs += 101 * DAY_MS;
    expect(time.now()).toBe(ownMs);
    expect(time.aheadMs).toBe(0);
  });
});
