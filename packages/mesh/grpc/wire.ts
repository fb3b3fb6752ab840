import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  isMessage,
  type MessageInitShape,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import { codecs } from '@chatmesh/gen/wire';
import { type ChannelOptions, Metadata, type MethodDefinition } from '@grpc/grpc-js';
import { grpcCode, type MeshError, RETRY_AFTER_METADATA } from '../errors.js';

/** Largest message in either direction. */
export const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/**
 * What a peer may have in flight to us without an answer, per stream and per connection. HTTP/2 begins with 64 KiB, which
 * a few batches fill: every further one would wait for a round trip.
 */
export const FLOW_CONTROL_WINDOW_BYTES = 8 * 1024 * 1024;

/** The same at both ends. A peer that has gone silently is noticed within 15 s, also while there are no calls. */
export const CHANNEL_OPTIONS: ChannelOptions = {
  'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
  'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 5_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc-node.flow_control_window': FLOW_CONTROL_WINDOW_BYTES,
};

/** grpc-js carries bytes: encoding is done by whoever has the message, so that its errors are ours. */
export type BytesMethod = MethodDefinition<Buffer, Buffer>;

export function bytesMethod(method: DescMethod): BytesMethod {
  const same = (bytes: Buffer) => bytes;
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === 'client_streaming' || method.methodKind === 'bidi_streaming',
    responseStream: method.methodKind === 'server_streaming' || method.methodKind === 'bidi_streaming',
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
    originalName: method.localName,
  };
}

/** Encodes a message, or what one is made of. */
export function encode<Desc extends DescMessage>(schema: Desc, message: MessageInitShape<Desc>): Buffer {
  const whole = isMessage(message, schema) ? message : create(schema, message);
  const codec = codecs.get(schema.typeName);
  if (codec) return codec.encode(whole);
  const bytes = toBinary(schema, whole);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Decodes a message. Its `bytes` fields are views into the given ones, as plain Uint8Arrays. */
export function decode<Desc extends DescMessage>(schema: Desc, bytes: Buffer): MessageShape<Desc> {
  const codec = codecs.get(schema.typeName);
  if (codec) return codec.decode(bytes) as MessageShape<Desc>;
  return fromBinary(schema, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
}

export function metadataOf(entries: Readonly<Record<string, string>> = {}): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(entries)) metadata.set(name, value);
  return metadata;
}

/** The status that ends a call with an error; an Error itself, since streams emit it as one. */
export function statusOf(error: MeshError): Error & { code: number; details: string; metadata: Metadata } {
  const { kind, retryAfterMs } = error;
  const metadata = metadataOf(retryAfterMs === undefined ? {} : { [RETRY_AFTER_METADATA]: String(retryAfterMs) });
  // A lone surrogate could not be percent-encoded for the trailer.
  const details = error.message.toWellFormed();
  return Object.assign(new Error(details), { code: grpcCode(kind), details, metadata });
}
