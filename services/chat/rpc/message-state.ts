import { create } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { type MessageState, MessageStateSchema } from '@chatmesh/gen/chat/v1/chat';
import { standingOf } from '../domain/events.js';
import type { StatusRecord } from '../stores/status-store.js';

/** How far a message has come, as its sender is told. */
export function stateOf(record: StatusRecord): MessageState {
  const state = create(MessageStateSchema, {
    serverMessageId: record.serverMessageId,
    clientMessageId: record.clientMessageId,
    status: standingOf(record),
    acceptedAt: timestampFromMs(record.acceptedAtMs),
    code: record.code,
    receiverId: record.recipientId,
  });
  if (record.deliveredAtMs) state.deliveredAt = timestampFromMs(record.deliveredAtMs);
  if (record.readAtMs) state.readAt = timestampFromMs(record.readAtMs);
  if (record.failedAtMs) state.failedAt = timestampFromMs(record.failedAtMs);
  return state;
}
