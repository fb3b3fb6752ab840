import { crc32 } from 'node:zlib';

/** Each stored value ends with the CRC-32 of its table's name, its key and its other bytes: a row under another key is told, too. */
export const CHECKSUM_BYTES = 4;
/** Parts a table's name from its checksum, hexadecimal. */
const MARK = '#';

/** Where the checksums of a table's rows begin. */
export function seedOf(table: string): number {
  return crc32(table);
}

/** The name under which a table is stored: a damaged one must not read as the name of a table that is not there. */
export function storedName(table: string): string {
  return `${table}${MARK}${crc32(table).toString(16).padStart(8, '0')}`;
}

/** The table's name from the file, where lmdb ends it with a zero; undefined where it is damaged. */
export function nameOfTable(stored: string): string | undefined {
  const name = stored.slice(0, stored.lastIndexOf(MARK));
  return `${storedName(name)}\0` === stored ? name : undefined;
}
