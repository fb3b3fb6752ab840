import Sequencer from '@jest/test-sequencer';

/** The files that take longest, in that order: begun last, one of them would run alone at the end. */
const LONGEST = [
  'fault/kill',
  'contract/status-store-lmdb',
  'fuzz/malformed',
  'unit/user/database',
  'e2e/websocket',
  'e2e/promises',
  'e2e/storage',
  'e2e/restore',
  'unit/mesh/idle-memory',
  'e2e/traces',
  'e2e/streams',
  'contract/message-log-lmdb',
  'contract/inbox-store-lmdb',
];

/** Begins with the longest files also where no earlier run has told how long each takes. */
export default class LongestFirst extends Sequencer {
  /** @param {import('@jest/test-result').Test[]} tests */
  sort(tests) {
    const rank = ({ path }) => {
      const at = LONGEST.findIndex((name) => path.endsWith(`/${name}.test.js`));
      return at < 0 ? LONGEST.length : at;
    };
    // Stable: the others stay in the order of their times, or sizes.
    return super.sort(tests).toSorted((a, b) => rank(a) - rank(b));
  }
}
