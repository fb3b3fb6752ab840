import { MeshClock } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

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

  test('is not taken along by a clock that is more than a minute ahead', () => {
    const time = clock();
    expect(time.hear(1_060_001)).toBe(false);
    expect(time.now()).toBe(1_000_000);
    expect(time.heardMs).toBe(0);
    expect(time.hear(1_060_000)).toBe(true);
  });
});
