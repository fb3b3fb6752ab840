import { countOf, DamagedPart, DamagedRow, partsOf, rowOfParts, sideBySide } from '@chatmesh/mesh/lmdb';
import { idOf, type Row } from './lmdb-status-row.js';

const LINE_BREAK = 10;
const ID_BYTES = 36;
const ID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g;

/** A row that is damaged. */
export class DamagedVersion {
  /** Ids of the records whose row it may be, and perhaps some others. */
  readonly ids: readonly string[];

  constructor(ids: readonly string[]) {
    this.ids = ids;
  }
}

/**
 * Rows, and the same as text parted by line breaks, as they are stored: the ids of all of them as the first part, and then each
 * row as one, with the line break behind it. So what destroys a row leaves its id.
 */
export function rowOfBatch(batch: number, rows: readonly Row[], text: string): Buffer {
  const ids = rows.map(idOf).join('');
  const lengths = [ids.length];
  for (const row of rows) lengths.push(row.length + 1);
  return rowOfParts(batch, lengths, (parts) => {
    parts.write(ids, 'latin1');
    parts.write(text, ids.length, 'latin1');
    parts[ids.length + text.length] = LINE_BREAK;
  });
}

/** The rows of a sound batch, parted by line breaks. */
export function textOf(stored: Buffer): string {
  const parts = sideBySide(stored);
  return parts.toString('latin1', (countOf(stored) - 1) * ID_BYTES, parts.length - 1);
}

/** The rows of a batch; where not even their number is known, all of them as one that is damaged. */
export function versionsIn(batch: number, stored: Buffer | DamagedRow): (Row | DamagedVersion)[] {
  if (!(stored instanceof DamagedRow)) return textOf(stored).split('\n');
  const parts = partsOf(batch, stored);
  if (!parts) return [new DamagedVersion(idsIn(stored.bytes))];
  const [ids, ...rows] = parts.map((part) => (part instanceof DamagedPart ? part.bytes : part)) as [
    Buffer,
    ...Buffer[],
  ];
  return rows.map((row, i) => {
    if (!(parts[i + 1] instanceof DamagedPart)) return row.toString('latin1', 0, row.length - 1);
    return new DamagedVersion([...idsIn(ids.subarray(i * ID_BYTES, (i + 1) * ID_BYTES)), ...idsIn(row)]);
  });
}

function idsIn(bytes: Buffer): string[] {
  return bytes.toString('latin1').match(ID) ?? [];
}
