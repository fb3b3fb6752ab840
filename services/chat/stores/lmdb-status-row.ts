import type { StatusRecord, StatusUpdate } from './status-store.js';

/**
 * A record as it is stored: its fields in order, as text parted by tabs; no field holds a tab or a line break. The fields
 * that never change come first.
 */
export type Row = string;

/** How many fields change: deliveredAtMs, readAtMs, failedAtMs, code, devices. */
const CHANGING = 5;

export function rowOf(r: StatusRecord): Row {
  const head = `${r.serverMessageId}\t${r.clientMessageId}\t${r.senderId}\t${r.recipientId}\t${r.acceptedAtMs}\t${r.position}`;
  return `${head}\t${r.fingerprint}\t${r.deliveredAtMs}\t${r.readAtMs}\t${r.failedAtMs}\t${r.code}\t${r.devices.join(',')}`;
}

/** The id at the head of a row, without the rest. */
export function idOf(row: Row): string {
  return row.slice(0, row.indexOf('\t'));
}

export function recordOf(row: Row): StatusRecord {
  const fields = row.split('\t');
  const field = (index: number) => fields[index] as string;
  return {
    serverMessageId: field(0),
    clientMessageId: field(1),
    senderId: field(2),
    recipientId: field(3),
    acceptedAtMs: Number(field(4)),
    position: field(5),
    fingerprint: field(6),
    deliveredAtMs: Number(field(7)),
    readAtMs: Number(field(8)),
    failedAtMs: Number(field(9)),
    code: field(10),
    devices: field(11) === '' ? [] : field(11).split(','),
  };
}

/** The row with an update merged in: the earliest time of each kind stays, with its code. The same row when it says nothing new. */
export function merged(row: Row, update: StatusUpdate): Row {
  let end = row.length;
  for (let field = 0; field < CHANGING; field++) end = row.lastIndexOf('\t', end - 1);
  const [delivered = '', read = '', failed = '', code = '', devices = ''] = row.slice(end + 1).split('\t');
  const deliveredAtMs = earliest(Number(delivered), update.deliveredAtMs);
  const readAtMs = earliest(Number(read), update.readAtMs);
  const failedAtMs = earliest(Number(failed), update.failedAtMs);
  const { deviceId } = update;
  const all =
    deviceId === undefined || devices.split(',').includes(deviceId)
      ? devices
      : devices === ''
        ? deviceId
        : `${devices},${deviceId}`;
  const failsEarlier = failedAtMs !== Number(failed);
  if (all === devices && !failsEarlier && deliveredAtMs === Number(delivered) && readAtMs === Number(read)) return row;
  return `${row.slice(0, end)}\t${deliveredAtMs}\t${readAtMs}\t${failedAtMs}\t${failsEarlier ? update.code : code}\t${all}`;
}

/** Of two times of which 0 says nothing. */
function earliest(a: number, b: number): number {
  return a === 0 || (b !== 0 && b < a) ? b : a;
}
