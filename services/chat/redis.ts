// What routers keep in Redis: loaded when it is configured.
export { RedisAttempts } from './stores/attempts.js';
export { CachedInboxStore } from './stores/cached-inbox-store.js';
export { RedisTokens } from './stores/redis-tokens.js';
