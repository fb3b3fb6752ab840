import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { MESSAGE, type PushedEvent, RECEIPT } from './pushed-event.js';
import type { TextFrames } from './text-frames.js';

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

/** Adds the frame of an event for one device; sealed content carries that device's header only. */
export function addEvent(frames: TextFrames, event: PushedEvent, deviceId: string): void {
  if (event.kind === 'message') addMessage(frames, event, deviceId);
  else if (event.kind === 'receipt') addReceipt(frames, event);
}

/** The frame that refuses a frame. */
export function errorJson(code: string, message: string, clientMessageId: string, retryAfterMs: number): string {
  return JSON.stringify({
    error: { code, message, ...(retryAfterMs > 0 && { retry_after_ms: retryAfterMs }) },
    ...(clientMessageId !== '' && { client_message_id: clientMessageId }),
  });
}

export const CAUGHT_UP_JSON = '{"caught_up":true}';
export const HEARTBEAT_JSON = '{"heartbeat":true}';

/** The frame that announces a close. */
export function goingAwayJson(reconnectAfterMs: number): string {
  return `{"going_away":{"reconnect_after_ms":${reconnectAfterMs}}}`;
}

// Ids and times need no escaping.

function addMessage(frames: TextFrames, event: PushedEvent, deviceId: string): void {
  frames.open();
  addText(frames, '{"sender_id":"', event, MESSAGE.senderId);
  if (event.number(MESSAGE.copy) !== 0) addText(frames, '","receiver_id":"', event, MESSAGE.receiverId);
  const { contentFrom } = event;
  if (contentFrom !== undefined) {
    frames.text('","content":"');
    frames.jsonUtf8(event.bytes, contentFrom, event.to(MESSAGE.payload));
    frames.text('","timestamp":"');
  } else frames.text(`",${sealedJson(event, deviceId)},"timestamp":"`);
  frames.text(rfc3339(event.number(MESSAGE.acceptedAtMs)));
  addText(frames, '","server_message_id":"', event, MESSAGE.serverMessageId);
  frames.text('"}');
  frames.close();
}

function sealedJson(event: PushedEvent, deviceId: string): string {
  const payload = event.payload();
  if (payload.case !== 'sealed') return '"content":""';
  const header = payload.value.headers[deviceId];
  const sealed = {
    body: Buffer.from(payload.value.body).toString('base64'),
    ...(header && { key_id: header.keyId, data: Buffer.from(header.data).toString('base64') }),
  };
  return `"sealed":${JSON.stringify(sealed)}`;
}

function addReceipt(frames: TextFrames, event: PushedEvent): void {
  frames.open();
  frames.text('{"status":"');
  frames.text(STATUS_NAMES[event.number(RECEIPT.status) as MessageStatus]);
  frames.text('","timestamp":"');
  frames.text(rfc3339(event.number(RECEIPT.atMs)));
  addText(frames, '","server_message_id":"', event, RECEIPT.serverMessageId);
  addText(frames, '","client_message_id":"', event, RECEIPT.clientMessageId);
  addText(frames, '","event_id":"', event, RECEIPT.eventId);
  if (event.from(RECEIPT.code) < event.to(RECEIPT.code)) {
    frames.text('","code":"');
    frames.jsonUtf8(event.bytes, event.from(RECEIPT.code), event.to(RECEIPT.code));
  }
  frames.text('"}');
  frames.close();
}

function addText(frames: TextFrames, before: string, event: PushedEvent, field: number): void {
  frames.text(before);
  frames.utf8(event.bytes, event.from(field), event.to(field));
}
