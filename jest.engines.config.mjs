import config from './jest.config.mjs';

/**
 * Tests on real engines: Pulsar, Cassandra, Redis, PostgreSQL. Those that the environment names (PULSAR_URL and so on) are
 * used; the others are started for the run and stopped after it. One needs Linux with util-linux, too, and says so.
 * @type {import('jest').Config}
 */
export default {
  ...config,
  roots: ['<rootDir>/test/dist/engines'],
  testPathIgnorePatterns: [],
  globalSetup: '<rootDir>/test/engines/setup.mjs',
  globalTeardown: '<rootDir>/test/engines/teardown.mjs',
};
