export type { Message, Outgoing, Receipt } from './chat.js';
export { Chat, type ChatEvent, type ChatEvents, type ConnectOptions, connect } from './chat.js';
export type { ConnectionStatus, TokenSource, Trace } from './connection.js';
export { ChatError, type ErrorCode } from './errors.js';
export type { ClientFrame, ServerFrame } from './frames.js';
export type { Sent } from './outbox.js';
export { readToken } from './token.js';
