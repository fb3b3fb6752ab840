import { crc32 } from 'node:zlib';
import { DamagedRow, newRow } from './lmdb-table.js';

/*
 * A row of several parts, each with a checksum of its own, so that damage costs only the parts that it hits:
 * [CRC-32 of the rest of the head, 4][key, 8][count, 4] then for each part [length, 4][CRC-32, 4], then the parts.
 */
const KEY_AT = 4;
const COUNT_AT = 12;
const HEAD_BYTES = 16;
const BYTES_PER_PART = 8;

/** A row of these parts, which are copied, to be put under `key` in a sequence. */
export function rowOfParts(key: number, parts: readonly Uint8Array[]): Buffer {
  const head = HEAD_BYTES + parts.length * BYTES_PER_PART;
  let bytes = head;
  for (const part of parts) bytes += part.length;
  const row = newRow(bytes);
  row.writeBigUInt64LE(BigInt(key), KEY_AT);
  row.writeUInt32LE(parts.length, COUNT_AT);
  let [at, end] = [HEAD_BYTES, head];
  for (const part of parts) {
    row.writeUInt32LE(part.length, at);
    row.writeUInt32LE(crc32(part), at + 4);
    row.set(part, end);
    at += BYTES_PER_PART;
    end += part.length;
  }
  row.writeUInt32LE(crc32(row.subarray(KEY_AT, head)), 0);
  return row;
}

/** How many parts a sound row has. */
export function countOf(row: Buffer): number {
  return row.readUInt32LE(COUNT_AT);
}

/** How many bytes a part of a sound row has. */
export function bytesOf(part: number, row: Buffer): number {
  return row.readUInt32LE(HEAD_BYTES + part * BYTES_PER_PART);
}

/** The parts of a sound row, side by side. */
export function sideBySide(row: Buffer): Buffer {
  return row.subarray(HEAD_BYTES + countOf(row) * BYTES_PER_PART);
}

/** A part that is damaged, with what stands in its place. */
export class DamagedPart {
  readonly bytes: Buffer;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** The parts of the row under `key`; undefined where not even their number is known. */
export function partsOf(key: number, row: Buffer | DamagedRow): (Buffer | DamagedPart)[] | undefined {
  const damaged = row instanceof DamagedRow;
  const bytes = damaged ? row.bytes : row;
  if (damaged && !hasHead(key, bytes)) return undefined;
  const count = countOf(bytes);
  const parts: (Buffer | DamagedPart)[] = [];
  let part = HEAD_BYTES + count * BYTES_PER_PART;
  for (let at = HEAD_BYTES; parts.length < count; at += BYTES_PER_PART) {
    const end = part + bytes.readUInt32LE(at);
    const found = bytes.subarray(part, end);
    parts.push(damaged && crc32(found) !== bytes.readUInt32LE(at + 4) ? new DamagedPart(found) : found);
    part = end;
  }
  return parts;
}

function hasHead(key: number, bytes: Buffer): boolean {
  if (bytes.length < HEAD_BYTES) return false;
  const head = HEAD_BYTES + countOf(bytes) * BYTES_PER_PART;
  if (head > bytes.length || bytes.readBigUInt64LE(KEY_AT) !== BigInt(key)) return false;
  return crc32(bytes.subarray(KEY_AT, head)) === bytes.readUInt32LE(0);
}
