import { Departure } from '@chatmesh/mesh';
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';

describe('a departure', () => {
  beforeEach(() => void jest.useFakeTimers());
  afterEach(() => void jest.useRealTimers());

  function departures(): { departure: Departure<string[]>; count: () => number; sent: string[][] } {
    const sent: string[][] = [];
    const departure = new Departure<string[]>({ begin: () => [], depart: (words) => sent.push(words), laterMs: 4 });
    return { departure, count: () => sent.length, sent };
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
    const { departure, count, sent } = departures();
    departure.later().push('first');
    departure.soon().push('second');
    jest.advanceTimersByTime(0);
    expect(count()).toBe(1);
    expect(sent).toEqual([['first', 'second']]);
  });

  test('does not happen by itself once what was gathered is discarded', () => {
    const { departure, count } = departures();
    departure.later().push('word');
    expect(departure.gathered).toEqual(['word']);
    expect(departure.discard()).toEqual(['word']);
    expect(departure.gathered).toBeUndefined();
    jest.advanceTimersByTime(100);
    expect(count()).toBe(0);
  });

  test('happens at once when that is asked for, and not without anything', () => {
    const { departure, count } = departures();
    departure.now();
    expect(count()).toBe(0);
    departure.soon();
    departure.now();
    expect(count()).toBe(1);
    jest.advanceTimersByTime(100);
    expect(count()).toBe(1);
  });
});
