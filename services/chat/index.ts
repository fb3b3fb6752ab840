export { type ChatConfig, readConfig } from './config.js';
export { type ChatOverrides, ChatService } from './service.js';
export type { InboxRow, InboxStore } from './stores/inbox-store.js';
export { LmdbInboxStore } from './stores/lmdb-inbox-store.js';
export { LmdbMessageLog } from './stores/lmdb-message-log.js';
export { LmdbStatusStore } from './stores/lmdb-status-store.js';
export type { LogConsumer, LogRecord, MessageLog, Position } from './stores/message-log.js';
export { PulsarMessageLog } from './stores/pulsar-message-log.js';
export type { StatusRecord, StatusStore, StatusUpdate } from './stores/status-store.js';
