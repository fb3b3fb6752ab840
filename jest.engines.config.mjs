import config from './jest.config.mjs';

/**
 * Tests on real engines, whose addresses they read from the mesh's own variables (DATABASE_URL and so on); what a test has to
 * kill it starts itself. Each says what it misses.
 * @type {import('jest').Config}
 */
export default { ...config, roots: ['<rootDir>/test/dist/engines'], testPathIgnorePatterns: [] };
