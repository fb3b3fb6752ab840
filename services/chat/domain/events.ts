import { create } from '@bufbuild/protobuf';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { type LogEvent, LogEventSchema, type MessageEvent, type ReceiptEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire, ReceiptEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { receiptEventId } from './ids.js';

/** The id under which a device confirms an event; undefined for events that no device is sent. */
export function confirmableId(event: LogEvent): string | undefined {
  if (event.kind.case === 'message') return event.kind.value.serverMessageId;
  if (event.kind.case === 'receipt') return event.kind.value.eventId;
  return undefined;
}

/**
 * How a device is written down among those that confirmed a message. A sender's device that has its copy is not one of
 * the recipient's, even where both are the nil device.
 */
export function deviceMark(isCopy: boolean, deviceId: string): string {
  return isCopy ? `copy/${deviceId}` : deviceId;
}

/** When a message was accepted, or a receipt arose, milliseconds since 1970; undefined for other events. */
export function acceptedAtMs({ kind }: LogEvent): number | undefined {
  if (kind.case === 'message') return Number(kind.value.acceptedAtMs);
  return kind.case === 'receipt' ? Number(kind.value.atMs) : undefined;
}

/** The step that an event's next one stands under, where the event is followed; else empty. */
export function traceparentOf({ kind }: LogEvent): string {
  return kind.case === 'message' || kind.case === 'receipt' ? kind.value.traceparent : '';
}

/** The fields of a message that a receipt repeats. */
export interface ReceiptSubject {
  readonly serverMessageId: string;
  readonly clientMessageId: string;
  readonly senderId: string;
}

/** The event that tells the owner of a user what one of the user's devices has confirmed, where no session of it can. */
export function confirmationOf(
  userId: string,
  confirmed: { deviceId: string; status: MessageStatus; ids: readonly string[] },
): LogEvent {
  const { deviceId, status, ids } = confirmed;
  return create(LogEventSchema, {
    userId,
    kind: { case: 'confirmation', value: { deviceId, status, ids: [...ids] } },
  });
}

/** The event that tells the sender of a message what became of it. The same status always has the same event_id. */
export function receiptOf(
  subject: ReceiptSubject,
  status: MessageStatus,
  atMs: number,
  code = '',
  traceparent = '',
): LogEvent {
  const receipt = ReceiptEventWire.create();
  receipt.eventId = receiptEventId(subject.serverMessageId, status);
  receipt.serverMessageId = subject.serverMessageId;
  receipt.clientMessageId = subject.clientMessageId;
  receipt.status = status;
  receipt.atMs = BigInt(atMs);
  receipt.code = code;
  receipt.traceparent = traceparent;
  const event = LogEventWire.create();
  event.userId = subject.senderId;
  event.kind = { case: 'receipt', value: receipt };
  return event;
}

/** The receipt that says how far a recorded message has come, encoded; undefined when it has only been sent. */
export function standingReceipt(
  record: ReceiptSubject & { deliveredAtMs: number; readAtMs: number; failedAtMs: number; code: string },
): Uint8Array | undefined {
  let receipt: LogEvent | undefined;
  if (record.readAtMs) receipt = receiptOf(record, MessageStatus.READ, record.readAtMs);
  else if (record.deliveredAtMs) receipt = receiptOf(record, MessageStatus.DELIVERED, record.deliveredAtMs);
  else if (record.failedAtMs) receipt = receiptOf(record, MessageStatus.FAILED, record.failedAtMs, record.code);
  return receipt && LogEventWire.encode(receipt);
}

export type { LogEvent, MessageEvent, ReceiptEvent };
