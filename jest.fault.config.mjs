import config from './jest.config.mjs';

/**
 * Faults on real engines, which the suite starts itself. FAULT_ROUNDS, FAULT_CLIENTS, FAULT_SEED and FAULT_ONLY choose.
 * @type {import('jest').Config}
 */
export default { ...config, roots: ['<rootDir>/test/dist/faults'], testPathIgnorePatterns: [] };
