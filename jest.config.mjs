import { availableParallelism } from 'node:os';

/**
 * What Node alone can run. Tests are compiled by `tsc -b` and run as the ES modules that they are: nothing is transformed here.
 * @type {import('jest').Config}
 */
export default {
  roots: ['<rootDir>/test/dist'],
  testMatch: ['**/*.test.js'],
  // These need more than Node: see jest.system.config.mjs and jest.engines.config.mjs.
  testPathIgnorePatterns: ['/test/dist/(system|engines|faults)/'],
  testSequencer: '<rootDir>/test/sequencer.mjs',
  setupFiles: ['<rootDir>/test/setup.mjs'],
  transform: {},
  injectGlobals: false,
  testTimeout: 180_000,
  // Many tests wait, for a time-out or for a process to start.
  maxWorkers: Math.max(3, availableParallelism()),
};
