import { DamagedPart, DamagedRow, partsOf, rowOfParts, sideBySide } from '@chatmesh/mesh/lmdb';
import type { Row } from './lmdb-status-row.js';

const LINE_BREAK = 10;

/** Rows, and the same as text parted by line breaks, as they are stored: each row is a part, with the line break behind it. */
export function rowOfBatch(batch: number, rows: readonly Row[], text: string): Buffer {
  const lengths = rows.map(({ length }) => length + 1);
  return rowOfParts(batch, lengths, (parts) => {
    parts.write(text, 'latin1');
    parts[text.length] = LINE_BREAK;
  });
}

/** The rows of a sound batch, parted by line breaks. */
export function textOf(stored: Buffer): string {
  const parts = sideBySide(stored);
  return parts.toString('latin1', 0, parts.length - 1);
}

/** The rows of a batch; where not even their number is known, all of it as one that is damaged. */
export function versionsIn(batch: number, stored: Buffer | DamagedRow): (Row | DamagedPart)[] {
  if (!(stored instanceof DamagedRow)) return textOf(stored).split('\n');
  const parts = partsOf(batch, stored) ?? [new DamagedPart(stored.bytes)];
  return parts.map((part) => (part instanceof DamagedPart ? part : part.toString('latin1', 0, part.length - 1)));
}
