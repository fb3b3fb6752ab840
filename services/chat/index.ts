export { type ChatConfig, type PulsarConfig, readConfig, type ScyllaConfig } from './config.js';
export { migrateLog, type Stores } from './engines.js';
export { CachedDirectory, type DirectoryClient, type DirectoryUser } from './routing/directory.js';
export type { LocatedSession, SessionFinder } from './routing/owner.js';
export { type ChatOverrides, ChatService } from './service.js';
export type { Attempt, Attempted, Attempts } from './stores/attempts.js';
export type { InboxRow, InboxStore } from './stores/inbox-store.js';
export { LmdbInboxStore } from './stores/lmdb-inbox-store.js';
export { LmdbMessageLog } from './stores/lmdb-message-log.js';
export { LmdbStatusStore } from './stores/lmdb-status-store.js';
export type {
  ConsumeOptions,
  DamagedEvent,
  LogConsumer,
  LogRecord,
  MessageLog,
  Position,
} from './stores/message-log.js';
export { PulsarMessageLog } from './stores/pulsar-message-log.js';
export {
  DAMAGED,
  NOTHING_NEW,
  type StatusAnswer,
  type StatusRecord,
  type StatusStore,
  type StatusUpdate,
} from './stores/status-store.js';
