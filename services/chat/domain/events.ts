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

/** When what became of a message became of it, milliseconds since 1970; 0 where it did not. */
interface Standing {
  readonly deliveredAtMs: number;
  readonly readAtMs: number;
  readonly failedAtMs: number;
  readonly code: string;
}

/** The event that ends sessions of a user: of one device, or of all where it is ''. */
export function closeOf(userId: string, deviceId: string): LogEvent {
  return create(LogEventSchema, { userId, kind: { case: 'close', value: { deviceId } } });
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

/** How far a recorded message has come. What failed stays so, also where an operator has had it delivered later. */
export function standingOf(record: Standing): MessageStatus {
  const { deliveredAtMs, readAtMs, failedAtMs } = record;
  const failedFirst = failedAtMs > 0 && (deliveredAtMs === 0 || failedAtMs <= deliveredAtMs);
  if (failedFirst) return MessageStatus.FAILED;
  if (readAtMs > 0) return MessageStatus.READ;
  return deliveredAtMs > 0 ? MessageStatus.DELIVERED : MessageStatus.SENT;
}

/** The receipt that says how far a recorded message has come, encoded; undefined when it has only been sent. */
export function standingReceipt(record: ReceiptSubject & Standing): Uint8Array | undefined {
  const status = standingOf(record);
  if (status === MessageStatus.SENT) return undefined;
  const { deliveredAtMs, readAtMs, failedAtMs } = record;
  const receipt =
    status === MessageStatus.FAILED
      ? receiptOf(record, status, failedAtMs, record.code)
      : receiptOf(record, status, status === MessageStatus.READ ? readAtMs : deliveredAtMs);
  return LogEventWire.encode(receipt);
}

export type { LogEvent, MessageEvent, ReceiptEvent };
