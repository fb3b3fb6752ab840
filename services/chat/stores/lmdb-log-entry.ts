import { crc32 } from 'node:zlib';

/** What the log stores under the sequence number of a group's first event: the group's events, framed and checked. */
export interface StoredEntry {
  readonly count: number;
  readonly crc: number;
  /** [length u32, little endian][bytes] for each event. */
  readonly data: Uint8Array;
}

/** Encoded events as one entry. */
export function entryOf(payloads: readonly Uint8Array[]): StoredEntry {
  let size = 0;
  for (const payload of payloads) size += 4 + payload.length;
  const data = Buffer.allocUnsafe(size);
  let at = 0;
  for (const payload of payloads) {
    data.writeUInt32LE(payload.length, at);
    data.set(payload, at + 4);
    at += 4 + payload.length;
  }
  return { count: payloads.length, crc: crc32(data), data };
}

/** The encoded events of an entry; undefined when it is damaged. */
export function payloadsOf({ count, crc, data }: StoredEntry): Uint8Array[] | undefined {
  if (crc32(data) !== crc) return undefined;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const payloads: Uint8Array[] = [];
  for (let at = 0; at < data.length; ) {
    const size = view.getUint32(at, true);
    payloads.push(data.subarray(at + 4, at + 4 + size));
    at += 4 + size;
  }
  return payloads.length === count ? payloads : undefined;
}
