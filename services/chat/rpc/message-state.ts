import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type MessageState, MessageStateSchema } from '@chatmesh/gen/chat/v1/chat';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { StatusRecord } from '../stores/status-store.js';

/** How far a message has come, as its sender is told. */
export function stateOf(record: StatusRecord): MessageState {
  const status = record.readAtMs
    ? MessageStatus.READ
    : record.deliveredAtMs
      ? MessageStatus.DELIVERED
      : record.failedAtMs
        ? MessageStatus.FAILED
        : MessageStatus.SENT;
  const state = create(MessageStateSchema, {
    serverMessageId: record.serverMessageId,
    clientMessageId: record.clientMessageId,
    status,
    acceptedAt: timestampFromMs(record.acceptedAtMs),
    code: record.code,
    receiverId: record.recipientId,
  });
  if (record.deliveredAtMs) state.deliveredAt = timestampFromMs(record.deliveredAtMs);
  if (record.readAtMs) state.readAt = timestampFromMs(record.readAtMs);
  if (record.failedAtMs) state.failedAt = timestampFromMs(record.failedAtMs);
  return state;
}
