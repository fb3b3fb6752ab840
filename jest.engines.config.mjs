import config from './jest.config.mjs';

/**
 * Tests on real engines, whose addresses they read from the environment.
 * @type {import('jest').Config}
 */
export default { ...config, roots: ['<rootDir>/test/dist/engines'], testPathIgnorePatterns: [] };
