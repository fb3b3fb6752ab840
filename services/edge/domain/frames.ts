import { create } from '@bufbuild/protobuf';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { type MessagePayload, MessagePayloadSchema } from '@chatmesh/gen/chat/v1/log';
import { MessagePayloadWire } from '@chatmesh/gen/wire/chat/v1/log';
import { MeshError } from '@chatmesh/mesh';
import { isRfc3339 } from './rfc3339.js';

/** What a client asks for in one frame, parsed and checked: nothing behind it checks the form again. */
export type ClientAction =
  | {
      readonly kind: 'send';
      readonly senderId: string;
      readonly receiverId: string;
      readonly groupId: string;
      readonly clientMessageId: string;
      /** An encoded MessagePayload. */
      readonly payload: Uint8Array;
      readonly sealed: boolean;
    }
  | { readonly kind: 'confirm'; readonly status: MessageStatus; readonly ids: string[] }
  | { readonly kind: 'auth'; readonly token: string }
  | { readonly kind: 'presence' }
  | { readonly kind: 'typing' };

export const MAX_CONTENT_CODE_POINTS = 1000;
export const MAX_SEALED_BODY_BYTES = 8 * 1024;
export const MAX_IDS = 256;
const MAX_PRESENCE_IDS = 500;
const MAX_KEY_ID_LENGTH = 64;
const MAX_SEALED_KEY_BYTES = 1024;

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** Whether `value` is a UUID in lower-case text. */
export function isUuid(value: unknown): value is string {
  return typeof value === 'string' && value.length === 36 && UUID.test(value);
}

/** @throws MeshError `invalid_argument` */
export function checkContent(content: string): void {
  if (content.length === 0) throw invalid('content must not be empty');
  // A string has at least as many code units as code points.
  if (content.length > MAX_CONTENT_CODE_POINTS && [...content].length > MAX_CONTENT_CODE_POINTS) {
    throw invalid(`content must be at most ${MAX_CONTENT_CODE_POINTS} code points`);
  }
  if (!content.isWellFormed()) throw invalid('content has a lone surrogate');
}

/**
 * Parses one JSON frame of the WebSocket.
 *
 * @throws MeshError `invalid_argument` saying which field is wrong.
 */
export function parseFrame(text: string): ClientAction {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw invalid('the frame is not JSON');
  }
  if (typeof frame !== 'object' || frame === null || Array.isArray(frame))
    throw invalid('the frame is not a JSON object');
  const fields = frame as Record<string, unknown>;
  if (given(fields.content) || given(fields.sealed)) return parseSend(fields);
  if (given(fields.status)) return parseReceipt(fields);
  if (given(fields.ack))
    return { kind: 'confirm', status: MessageStatus.UNSPECIFIED, ids: ids(fields.ack, 'ack', MAX_IDS) };
  if (given(fields.auth)) return parseAuth(fields.auth);
  if (given(fields.presence)) return parsePresence(fields.presence);
  if (given(fields.typing)) return parseTyping(fields.typing);
  if (given(fields.client_message_id) || given(fields.receiver_id)) throw invalid('content or sealed is missing');
  throw invalid('the frame is none of send, receipt, ack, auth, presence, typing');
}

/** The client_message_id of a frame that was refused, so that the refusal can name it. */
export function clientMessageIdOf(text: string): string {
  try {
    const { client_message_id: id } = JSON.parse(text) as { client_message_id?: unknown };
    return typeof id === 'string' && id.length <= 64 ? id : '';
  } catch {
    return '';
  }
}

/** An encoded MessagePayload. */
export function encodePayload(payload: MessagePayload['payload']): Uint8Array {
  const message = MessagePayloadWire.create();
  message.payload = payload;
  return MessagePayloadWire.encode(message);
}

function parseSend(fields: Record<string, unknown>): ClientAction {
  const {
    sender_id: senderId,
    receiver_id: receiverId,
    group_id: groupId,
    client_message_id: clientMessageId,
  } = fields;
  if (!isUuid(senderId)) throw invalid('sender_id must be a UUID in lower-case text');
  if (!isUuid(clientMessageId)) throw invalid('client_message_id must be a UUID in lower-case text');
  if (given(receiverId) === given(groupId)) throw invalid('exactly one of receiver_id and group_id must be given');
  if (given(receiverId) && !isUuid(receiverId)) throw invalid('receiver_id must be a UUID in lower-case text');
  if (given(groupId) && !isUuid(groupId)) throw invalid('group_id must be a UUID in lower-case text');
  if (given(fields.content) && given(fields.sealed)) throw invalid('exactly one of content and sealed must be given');
  checkTimestamp(fields.timestamp);
  let payload: MessagePayload['payload'];
  if (given(fields.content)) {
    if (typeof fields.content !== 'string') throw invalid('content must be text');
    checkContent(fields.content);
    payload = { case: 'content', value: fields.content };
  } else payload = parseSealed(fields.sealed);
  return {
    kind: 'send',
    senderId,
    receiverId: (receiverId as string | undefined) ?? '',
    groupId: (groupId as string | undefined) ?? '',
    clientMessageId,
    payload: encodePayload(payload),
    sealed: payload.case === 'sealed',
  };
}

function parseSealed(value: unknown): MessagePayload['payload'] {
  const sealed = object(value, 'sealed');
  const body = base64(sealed.body, 'sealed.body', MAX_SEALED_BODY_BYTES);
  const headers: Record<string, { keyId: string; data: Uint8Array }> = {};
  for (const [deviceId, header] of Object.entries(object(sealed.headers, 'sealed.headers'))) {
    if (!isUuid(deviceId)) throw invalid('sealed.headers must be keyed by device_id');
    const { key_id: keyId, data } = object(header, `sealed.headers.${deviceId}`);
    if (typeof keyId !== 'string' || keyId.length === 0 || keyId.length > MAX_KEY_ID_LENGTH)
      throw invalid('key_id must be text of 1 to 64 characters');
    headers[deviceId] = { keyId, data: base64(data, 'data', MAX_SEALED_KEY_BYTES) };
  }
  return create(MessagePayloadSchema, { payload: { case: 'sealed', value: { body, headers } } }).payload;
}

function parseReceipt(fields: Record<string, unknown>): ClientAction {
  const status =
    fields.status === 'delivered' ? MessageStatus.DELIVERED : fields.status === 'read' ? MessageStatus.READ : undefined;
  if (status === undefined) throw invalid('status must be delivered or read');
  checkTimestamp(fields.timestamp);
  const { server_message_id: one, server_message_ids: many } = fields;
  if (given(one) === given(many))
    throw invalid('exactly one of server_message_id and server_message_ids must be given');
  if (given(many)) return { kind: 'confirm', status, ids: ids(many, 'server_message_ids', MAX_IDS) };
  if (!isUuid(one)) throw invalid('server_message_id must be a UUID in lower-case text');
  return { kind: 'confirm', status, ids: [one] };
}

function parseAuth(value: unknown): ClientAction {
  const { token } = object(value, 'auth');
  if (typeof token !== 'string' || token.length === 0) throw invalid('auth.token must be text');
  return { kind: 'auth', token };
}

function parsePresence(value: unknown): ClientAction {
  const { subscribe, unsubscribe } = object(value, 'presence');
  if (given(subscribe)) ids(subscribe, 'presence.subscribe', MAX_PRESENCE_IDS);
  if (given(unsubscribe)) ids(unsubscribe, 'presence.unsubscribe', MAX_PRESENCE_IDS);
  return { kind: 'presence' };
}

function parseTyping(value: unknown): ClientAction {
  const typing = object(value, 'typing');
  const { receiver_id: receiverId, group_id: groupId } = typing;
  if (given(receiverId) === given(groupId) || !isUuid(receiverId ?? groupId)) {
    throw invalid('typing needs exactly one of receiver_id and group_id');
  }
  if (typeof typing.active !== 'boolean') throw invalid('typing.active must be true or false');
  return { kind: 'typing' };
}

function ids(value: unknown, name: string, max: number): string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > max)
    throw invalid(`${name} must be a list of 1 to ${max} UUIDs`);
  for (const id of value) if (!isUuid(id)) throw invalid(`${name} must hold UUIDs in lower-case text`);
  return value;
}

function object(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${name} must be an object`);
  return value as Record<string, unknown>;
}

function base64(value: unknown, name: string, maxBytes: number): Uint8Array {
  if (typeof value !== 'string' || value.length === 0 || !BASE64.test(value)) throw invalid(`${name} must be base64`);
  const bytes = Buffer.from(value, 'base64');
  if (bytes.length > maxBytes) throw invalid(`${name} must be at most ${maxBytes} bytes`);
  return bytes;
}

function checkTimestamp(value: unknown): void {
  if (!given(value)) return;
  if (typeof value !== 'string' || !isRfc3339(value)) throw invalid('timestamp must be an RFC 3339 time');
}

/** A field that is absent and one that is `null` are the same. */
function given(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function invalid(message: string): MeshError {
  return new MeshError('invalid_argument', message);
}
