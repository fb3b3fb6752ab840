import { Turns } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

describe('turns', () => {
  test('let so much through in each turn of the event loop, and who waits in order', async () => {
    const turns = new Turns(10);
    const done: string[] = [];
    const inTheFirst: string[] = [];
    // Before anything else that is due with the next turn.
    setImmediate(() => inTheFirst.push(...done));
    const taken = ['a', 'b', 'c', 'd', 'e'].map((name) => turns.take(4).then(() => done.push(name)));
    await Promise.all(taken);
    expect(done).toEqual(['a', 'b', 'c', 'd', 'e']);
    // What is left of a turn, if only a little, lets one more through.
    expect(inTheFirst).toEqual(['a', 'b', 'c']);
  });

  test('let through at once whoever comes to an idle one, also with more than a turn takes', async () => {
    const turns = new Turns(10);
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    await turns.take(1_000);
    expect(turned).toBe(false);
    await turns.take(1);
    expect(turned).toBe(true);
  });
});
