import config from './jest.config.mjs';

/**
 * Tests that need more than Node: Chromium (the page), strace (when a write is flushed), openssl (certificates), and Linux
 * with util-linux (what a full disk does). Each says what it misses.
 * @type {import('jest').Config}
 */
export default { ...config, roots: ['<rootDir>/test/dist/system'], testPathIgnorePatterns: [] };
