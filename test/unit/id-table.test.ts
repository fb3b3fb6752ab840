import { randomUUID } from 'node:crypto';
import { IdTable, keyOf, RecentIdMap, RecentIds } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';

/** Few ids, so that they meet: half of them share the words that choose the slot. */
const IDS = Array.from({ length: 40 }, (_, i) => (i % 2 ? randomUUID() : `${randomUUID().slice(0, 28)}0badcafe`));

describe('a table of ids', () => {
  test('holds what a Map would hold, whatever is set and deleted', () => {
    const step = fc.record({
      kind: fc.constantFrom('set', 'set', 'delete', 'clear'),
      id: fc.constantFrom(...IDS),
      value: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const table = new IdTable();
        const model = new Map<string, number>();
        for (const { kind, id, value } of steps) {
          if (kind === 'set') {
            table.set(id, value);
            model.set(id, value);
          } else if (kind === 'delete') {
            table.delete(id);
            model.delete(id);
          } else if (value % 8 === 0) {
            table.clear();
            model.clear();
          }
          expect(table.size).toBe(model.size);
        }
        for (const id of IDS) {
          expect(table.get(id)).toBe(model.get(id));
          expect(table.getKey(keyOf(id))).toBe(model.get(id));
        }
      }),
      { numRuns: 200 },
    );
  });

  test('grows, and lists its ids in order, while it changes', () => {
    const table = new IdTable();
    const ids = Array.from({ length: 20_000 }, () => randomUUID());
    for (const [value, id] of ids.entries()) table.set(id, value);
    const listed: string[] = [];
    for (const keys of table.keysInOrder()) {
      listed.push(...keys.map((key) => key.toString('hex')));
      table.delete(ids[listed.length % ids.length] as string);
    }
    expect(listed).toEqual(ids.map((id) => id.replaceAll('-', '')).sort());
  });

  test('takes over only what it does not have', () => {
    const [a, b] = IDS as [string, string];
    const table = new IdTable();
    table.set(a, 1);
    const other = new IdTable();
    other.set(a, 2);
    other.set(b, 3);
    table.addMissing(other);
    expect([table.get(a), table.get(b), table.size]).toEqual([1, 3, 2]);
  });
});

/** As many ids as a client can have in a table, alike in what it may choose. */
const MANY = 65_536;
const digits = (n: number, length: number) => n.toString(16).padStart(length, '0');
const CHOSEN: [string, (i: number) => string][] = [
  ['equal tails', (i) => `${digits(i, 8)}-1111-4111-8111-2222deadbeef`],
  ['equal heads', (i) => `deadbeef-1111-4111-8111-2222${digits(i, 8)}`],
  ['equal heads and tails', (i) => `deadbeef-${digits(i, 8).slice(4)}-4111-8111-2222deadbeef`],
  ['tails that a multiplier keeps together', (i) => `deadbeef-1111-4111-8111-2222${digits(i * 0x10000, 8)}`],
  ['differences in one bit of every word', (i) => chosenBits(i)],
  ['no likeness', () => randomUUID()],
];

/** An id with the bits of a number, each in another byte. */
function chosenBits(n: number): string {
  const hex = Array.from({ length: 16 }, (_, bit) => (n & (1 << bit) ? '10' : '00')).join('');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

describe('ids that somebody chose', () => {
  test.each(CHOSEN)('with %s are found as quickly as others, while they come and when they are there', (_, id) => {
    const table = new IdTable();
    for (let i = 0; i < MANY; i++) {
      table.set(id(i), i);
      // Looked at now and then, since each look goes through all of them.
      if (i % 8192 === 8191) {
        const { longest, mean } = table.walks;
        // At the highest load a walk is 1.75 slots on average (Knuth, volume 3, section 6.4, theorem K).
        expect(mean).toBeLessThan(2);
        expect(longest).toBeLessThan(200);
        expect(table.size).toBe(i + 1);
      }
    }
  });

  test('are listed some at a time, however alike they are', () => {
    const table = new IdTable();
    for (let i = 0; i < MANY; i++) table.set(`deadbeef-1111-4111-8111-2222${digits(i, 8)}`, i);
    const listed: Buffer[] = [];
    for (const keys of table.keysInOrder()) {
      expect(keys.length).toBeLessThanOrEqual(1024);
      listed.push(...keys);
    }
    expect(listed.every((key, i) => key.readUInt32BE(12) === i)).toBe(true);
    expect(listed.length).toBe(MANY);
  });
});

describe('ids of late', () => {
  test('tell a second copy from the first one handled again', () => {
    const recent = new RecentIds(100);
    const [id] = IDS as [string];
    expect(recent.seenBefore(id, '0000000000001')).toBeUndefined();
    expect(recent.seenBefore(id, '0000000000001')).toBeUndefined();
    expect(recent.seenBefore(id, '0000000000002')).toBe('0000000000001');
  });

  test('keep the earlier of two copies, whichever comes first', () => {
    const recent = new RecentIds(100);
    const [id] = IDS as [string];
    expect(recent.seenBefore(id, '0000000000002')).toBeUndefined();
    expect(recent.seenBefore(id, '0000000000001')).toBeUndefined();
    expect(recent.seenBefore(id, '0000000000002')).toBe('0000000000001');
  });

  test('are remembered for at least half of the capacity, and forgotten after all of it', () => {
    const recent = new RecentIds(100);
    const [id] = IDS as [string];
    const others = (count: number) => {
      for (let i = 0; i < count; i++) recent.seenBefore(randomUUID(), '1');
    };
    recent.seenBefore(id, '1');
    others(50);
    expect(recent.seenBefore(id, '2')).toBe('1');
    others(100);
    expect(recent.seenBefore(id, '2')).toBeUndefined();
  });
});

describe('a map from the latest ids', () => {
  test('has at least the younger half of its capacity, with the value that was set last', () => {
    const ids = Array.from({ length: 25 }, () => randomUUID());
    const map = new RecentIdMap(20);
    for (const [i, id] of ids.entries()) {
      map.set(id, 0);
      map.set(id, i);
      for (let j = Math.max(0, i - 9); j <= i; j++) expect(map.get(ids[j] as string)).toBe(j);
    }
    expect(map.get(ids[0] as string)).toBeUndefined();
  });
});
