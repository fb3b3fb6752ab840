export { type DatabaseConfig, readConfig, type UserConfig } from './config.js';
export { type UserOverrides, UserService } from './service.js';
export { PgliteEngine } from './stores/pglite-engine.js';
export { SqlUserStore } from './stores/sql-user-store.js';
export type * from './stores/user-store.js';
