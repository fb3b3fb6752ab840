// What routers keep in Redis: loaded when it is configured.
export { CachedInboxStore } from './stores/cached-inbox-store.js';
export { RedisTokens } from './stores/redis-tokens.js';
