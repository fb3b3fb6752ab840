import { bytesOf, DamagedPart, DamagedRow, partsOf, rowOfParts, sideBySide } from '@chatmesh/mesh/lmdb';
import { idOf, type Row } from './lmdb-status-row.js';

const LINE_BREAK = 10;
/** What damage costs: a checksum for each row would cost more than all else that is done for it here. */
const ROWS_PER_PART = 8;
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
 * Rows, and the same as text parted by line breaks, as they are stored: the ids of all of them as the first part, so that what
 * destroys a row leaves its id, and then the rows, some in each part, with a line break behind each.
 */
export function rowOfBatch(batch: number, rows: readonly Row[], text: string): Buffer {
  let ids = '';
  for (const row of rows) ids += idOf(row);
  const bytes = Buffer.allocUnsafe(ids.length + text.length + 1);
  bytes.write(ids, 'latin1');
  bytes.write(text, ids.length, 'latin1');
  bytes[bytes.length - 1] = LINE_BREAK;
  const parts = [bytes.subarray(0, ids.length)];
  let from = ids.length;
  let to = from;
  for (let n = 1; n <= rows.length; n++) {
    to += (rows[n - 1] as Row).length + 1;
    if (n % ROWS_PER_PART !== 0 && n !== rows.length) continue;
    parts.push(bytes.subarray(from, to));
    from = to;
  }
  return rowOfParts(batch, parts);
}

/** The rows of a sound batch, parted by line breaks. */
export function textOf(stored: Buffer): string {
  const parts = sideBySide(stored);
  return parts.toString('latin1', bytesOf(0, stored), parts.length - 1);
}

/** The rows of a batch; where not even their number is known, all of them as one that is damaged. */
export function versionsIn(batch: number, stored: Buffer | DamagedRow): (Row | DamagedVersion)[] {
  if (!(stored instanceof DamagedRow)) return textOf(stored).split('\n');
  const parts = partsOf(batch, stored);
  if (!parts) return [new DamagedVersion(idsIn(stored.bytes))];
  const [ids, ...groups] = parts.map((part) => (part instanceof DamagedPart ? part.bytes : part)) as [
    Buffer,
    ...Buffer[],
  ];
  return groups.flatMap((group, n): (Row | DamagedVersion)[] => {
    const [from, to] = [n * ROWS_PER_PART, Math.min((n + 1) * ROWS_PER_PART, ids.length / ID_BYTES)];
    if (!(parts[n + 1] instanceof DamagedPart)) return group.toString('latin1', 0, group.length - 1).split('\n');
    const found = idsIn(group);
    return Array.from({ length: to - from }, (_, i) => {
      const id = ids.subarray((from + i) * ID_BYTES, (from + i + 1) * ID_BYTES);
      return new DamagedVersion([...idsIn(id), ...(i === 0 ? found : [])]);
    });
  });
}

function idsIn(bytes: Buffer): string[] {
  return bytes.toString('latin1').match(ID) ?? [];
}
