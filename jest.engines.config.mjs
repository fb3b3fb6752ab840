import config from './jest.config.mjs';

/** Tests on real engines, whose addresses the environment names. @type {import('jest').Config} */
export default { ...config, roots: ['<rootDir>/test/dist/engines'], testPathIgnorePatterns: [] };
