import { Departure } from '@chatmesh/mesh';
import { afterEach, describe, expect, jest, test } from '@jest/globals';

describe('a departure', () => {
  jest.useFakeTimers({ doNotFake: ['performance'] });
  afterEach(() => jest.clearAllTimers());

  function departures(): { departure: Departure; count: () => number } {
    let count = 0;
    return { departure: new Departure(() => count++, { laterMs: 4 }), count: () => count };
  }

  test('happens once at the end of the turn, however often it is asked for', () => {
    const { departure, count } = departures();
    departure.soon();
    departure.soon();
    expect(count()).toBe(0);
    jest.advanceTimersByTime(0);
    expect(count()).toBe(1);
  });

  test('that does not hurry happens by itself, once, after its time', () => {
    const { departure, count } = departures();
    departure.later();
    departure.later();
    jest.advanceTimersByTime(3);
    expect(count()).toBe(0);
    jest.advanceTimersByTime(1);
    expect(count()).toBe(1);
    jest.advanceTimersByTime(100);
    expect(count()).toBe(1);
  });

  test('that does not hurry happens with one that does', () => {
    const { departure, count } = departures();
    departure.later();
    departure.soon();
    jest.advanceTimersByTime(0);
    expect(count()).toBe(1);
  });

  test('does not happen by itself once it is cancelled', () => {
    const { departure, count } = departures();
    departure.later();
    departure.cancel();
    jest.advanceTimersByTime(100);
    expect(count()).toBe(0);
  });
});
