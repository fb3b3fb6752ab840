import { deadline, Mailbox, MeshError, sleep } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

describe('a mailbox', () => {
  test('gives out what was put in, in order, however filling and taking interleave', async () => {
    const box = new Mailbox<number>({ capacity: 1000 });
    const taken: (number | undefined)[] = [];
    let next = 0;
    for (let round = 0; round < 50; round++) {
      for (let i = 0; i < 7; i++) box.offer(next++);
      for (let i = 0; i < 5; i++) taken.push(await box.next());
    }
    while (box.size > 0) taken.push(await box.next());
    expect(taken).toEqual(Array.from({ length: next }, (_, i) => i));
  });

  test('refuses when it is full, and takes again when there is room', async () => {
    const box = new Mailbox<string>({ capacity: 2 });
    expect([box.offer('a'), box.offer('b'), box.offer('c')]).toEqual([true, true, false]);
    expect(box.size).toBe(2);
    expect(await box.next()).toBe('a');
    expect(box.offer('d')).toBe(true);
    expect([await box.next(), await box.next()]).toEqual(['b', 'd']);
  });

  test('wakes a waiting taker by an item, by the close, by an error and by the signal', async () => {
    const box = () => new Mailbox<string>({ capacity: 1 });
    const [filled, closed, failed, aborted] = [box(), box(), box(), box()];
    const stop = new AbortController();
    const waits = Promise.allSettled([
      filled.next(),
      closed.next(),
      failed.next(),
      aborted.next({ signal: stop.signal }),
    ]);
    filled.offer('x');
    closed.close();
    failed.close(new MeshError('aborted', 'replaced'));
    stop.abort();
    expect(await waits).toMatchObject([
      { value: 'x' },
      { value: undefined },
      { reason: { kind: 'aborted' } },
      { reason: { kind: 'cancelled' } },
    ]);
  });

  test('hands out what it still has after the close, then the end', async () => {
    const box = new Mailbox<string>({ capacity: 2 });
    box.offer('a');
    box.close(new MeshError('unavailable', 'gone'));
    box.close();
    expect(box.offer('b')).toBe(false);
    expect(await box.next()).toBe('a');
    await expect(box.next()).rejects.toMatchObject({ kind: 'unavailable' });
  });

  test('a wait that was given up takes no item away', async () => {
    const box = new Mailbox<string>({ capacity: 1 });
    const stop = new AbortController();
    const wait = box.next({ signal: stop.signal });
    stop.abort();
    await expect(wait).rejects.toMatchObject({ kind: 'cancelled' });
    box.offer('a');
    expect(await box.next()).toBe('a');
  });
});

describe('waiting', () => {
  test('a sleep ends at once when its signal fires, also when that was before', async () => {
    const stop = new AbortController();
    const asleep = sleep(60_000, { signal: stop.signal });
    stop.abort();
    await expect(asleep).rejects.toMatchObject({ kind: 'cancelled' });
    await expect(sleep(60_000, { signal: stop.signal })).rejects.toMatchObject({ kind: 'cancelled' });
    await sleep(1);
  });

  test('a deadline fires by itself and with its parent', async () => {
    const parent = new AbortController();
    const long = deadline(60_000, parent.signal);
    const short = deadline(1);
    await new Promise((resolve) => short.addEventListener('abort', resolve));
    expect(long.aborted).toBe(false);
    parent.abort();
    expect(long.aborted).toBe(true);
  });
});
