import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { LogEvent, MessageEvent, ReceiptEvent } from '@chatmesh/gen/chat/v1/log';
import { MessagePayloadWire } from '@chatmesh/gen/wire/chat/v1/log';

const STATUS_NAMES: Record<MessageStatus, string> = {
  [MessageStatus.UNSPECIFIED]: '',
  [MessageStatus.SENT]: 'sent',
  [MessageStatus.DELIVERED]: 'delivered',
  [MessageStatus.READ]: 'read',
  [MessageStatus.FAILED]: 'failed',
};

let lastMs = -1;
let lastText = '';

/** RFC 3339 in UTC with milliseconds; messages of one moment share the text. */
export function rfc3339(ms: number): string {
  if (ms !== lastMs) {
    lastMs = ms;
    lastText = new Date(ms).toISOString();
  }
  return lastText;
}

/** The frame that says a message is accepted. Ids and times need no escaping. */
export function acceptedJson(
  clientMessageId: string,
  serverMessageId: string,
  acceptedAtMs: number,
  deduplicated: boolean,
): string {
  const tail = deduplicated ? ',"deduplicated":true}' : '}';
  return `{"status":"sent","timestamp":"${rfc3339(acceptedAtMs)}","client_message_id":"${clientMessageId}","server_message_id":"${serverMessageId}"${tail}`;
}

/** The frame of an event for one device; sealed content carries that device's header only. */
export function eventJson(event: LogEvent, deviceId: string): string | undefined {
  if (event.kind.case === 'message') return messageJson(event.kind.value, deviceId);
  if (event.kind.case === 'receipt') return receiptJson(event.kind.value);
  return undefined;
}

/** The frame that refuses a frame. */
export function errorJson(code: string, message: string, clientMessageId: string, retryAfterMs: number): string {
  return JSON.stringify({
    error: { code, message, ...(retryAfterMs > 0 && { retry_after_ms: retryAfterMs }) },
    ...(clientMessageId !== '' && { client_message_id: clientMessageId }),
  });
}

export const CAUGHT_UP_JSON = '{"caught_up":true}';

/** The frame that announces a close. */
export function goingAwayJson(reconnectAfterMs: number): string {
  return `{"going_away":{"reconnect_after_ms":${reconnectAfterMs}}}`;
}

function messageJson(message: MessageEvent, deviceId: string): string {
  const receiver = message.copy ? `,"receiver_id":"${message.receiverId}"` : '';
  return `{"sender_id":"${message.senderId}"${receiver},${payloadJson(message.payload, deviceId)},"timestamp":"${rfc3339(Number(message.acceptedAtMs))}","server_message_id":"${message.serverMessageId}"}`;
}

function payloadJson(encoded: Uint8Array, deviceId: string): string {
  const { payload } = MessagePayloadWire.decode(encoded);
  if (payload.case === 'content') return `"content":${JSON.stringify(payload.value)}`;
  if (payload.case !== 'sealed') return '"content":""';
  const header = payload.value.headers[deviceId];
  const sealed = {
    body: Buffer.from(payload.value.body).toString('base64'),
    ...(header && { key_id: header.keyId, data: Buffer.from(header.data).toString('base64') }),
  };
  return `"sealed":${JSON.stringify(sealed)}`;
}

function receiptJson(receipt: ReceiptEvent): string {
  const code = receipt.code === '' ? '' : `,"code":${JSON.stringify(receipt.code)}`;
  return `{"status":"${STATUS_NAMES[receipt.status]}","timestamp":"${rfc3339(Number(receipt.atMs))}","server_message_id":"${receipt.serverMessageId}","client_message_id":"${receipt.clientMessageId}","event_id":"${receipt.eventId}"${code}}`;
}
