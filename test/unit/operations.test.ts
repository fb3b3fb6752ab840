import { expect, test } from '@jest/globals';
import { meshVariables, readRepository } from '../variables.js';

test('docs/operations.md has every variable of the services, and no other', async () => {
  const { names } = await meshVariables();
  const sections = readRepository('docs/operations.md').split(/^## /m);
  const section = sections.find((text) => text.startsWith('Variables\n')) ?? '';
  const documented = [...section.matchAll(/^\| `(\w+)` \|/gm)].map(([, name]) => name);
  expect(documented.sort()).toEqual([...names].sort());
});
