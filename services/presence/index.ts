export { type PresenceConfig, readConfig } from './config.js';
export { type PresenceOverrides, PresenceService } from './service.js';
export { MemoryPresenceStore } from './stores/memory-presence-store.js';
export type * from './stores/presence-store.js';
