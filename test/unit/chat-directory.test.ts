import { randomUUID } from 'node:crypto';
import { CachedDirectory, type DirectoryClient, type DirectoryUser } from '@chatmesh/chat';
import type { MonotonicClock } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

const USER = randomUUID();
const [OLD, NEW] = [randomUUID(), randomUUID()] as const;

function user(...deviceIds: string[]): DirectoryUser {
  return { userId: USER, deviceIds, blockedUserIds: new Set(), readReceipts: true, suspended: false };
}

/** A directory whose answers a test gives. */
class Answers implements DirectoryClient {
  readonly asked: ((users: DirectoryUser[]) => void)[] = [];

  resolve(): Promise<DirectoryUser[]> {
    return new Promise((answer) => this.asked.push(answer));
  }

  /** Answers the oldest question, once it is asked. */
  async give(...users: DirectoryUser[]): Promise<void> {
    while (this.asked.length === 0) await Promise.resolve();
    this.asked.shift()?.(users);
  }
}

describe('what the router remembers of users', () => {
  let nowMs = 0;
  const clock = (() => nowMs) as MonotonicClock;
  const directory = () => {
    const answers = new Answers();
    return { answers, cache: new CachedDirectory(answers, clock) };
  };

  test('a device that is registered while the first look-up is under way is in its answer and in what is remembered', async () => {
    const { answers, cache } = directory();
    const found = cache.find(USER);
    await Promise.resolve();
    cache.addDevice(USER, NEW);
    cache.addDevice(USER, NEW);
    await answers.give(user(OLD));
    expect((await found)?.deviceIds).toEqual([OLD, NEW]);
    expect(cache.peek(USER)?.deviceIds).toEqual([OLD, NEW]);
  });

  test('a device that is registered while a later look-up is under way is not forgotten by its answer', async () => {
    const { answers, cache } = directory();
    const first = cache.find(USER);
    await answers.give(user(OLD));
    await first;
    const second = cache.find(USER);
    await Promise.resolve();
    cache.addDevice(USER, NEW);
    expect(cache.peek(USER)?.deviceIds).toEqual([OLD, NEW]);
    await answers.give(user(OLD));
    expect((await second)?.deviceIds).toEqual([OLD, NEW]);
    expect(cache.peek(USER)?.deviceIds).toEqual([OLD, NEW]);
  });

  test('a look-up that begins after the registration is believed: the device may be gone by then', async () => {
    const { answers, cache } = directory();
    const before = cache.find(USER);
    await Promise.resolve();
    cache.addDevice(USER, NEW);
    const after = cache.find(USER);
    await answers.give(user(OLD));
    await before;
    await answers.give(user(OLD));
    expect((await after)?.deviceIds).toEqual([OLD]);
    expect(cache.peek(USER)?.deviceIds).toEqual([OLD]);
  });

  test('that a user is absent is forgotten when a device of the user comes, also while the look-up is under way', async () => {
    const { answers, cache } = directory();
    const first = cache.find(USER);
    await answers.give();
    await first;
    expect(cache.peek(USER)).toBeNull();
    cache.addDevice(USER, NEW);
    expect(cache.peek(USER)).toBeUndefined();
    const second = cache.find(USER);
    await Promise.resolve();
    cache.addDevice(USER, NEW);
    await answers.give();
    expect(await second).toBeNull();
    expect(cache.peek(USER)).toBeUndefined();
  });

  test('a look-up that fails leaves nothing behind', async () => {
    const { answers, cache } = directory();
    const failing = new CachedDirectory({ resolve: () => Promise.reject(new Error('away')) }, clock);
    await expect(failing.find(USER)).rejects.toThrow('away');
    failing.addDevice(USER, NEW);
    expect(failing.peek(USER)).toBeUndefined();
    const found = cache.find(USER);
    await answers.give(user(OLD));
    await found;
    nowMs += 60_001;
    expect(cache.peek(USER)).toBeUndefined();
  });
});
