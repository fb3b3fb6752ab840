import { earliest, type StatusRecord, type StatusUpdate } from './status-store.js';

/**
 * A record as it is stored: its fields in order, as text parted by tabs; no field holds a tab or a line break. The fields
 * that never change come first.
 */
export type Row = string;

const UNCHANGING = 9;
/** The field of the position, from 0. */
const POSITION = 5;
/** How many fields change: deliveredAtMs, readAtMs, failedAtMs, code, devices, takenAtMs, transmittedAtMs. */
const CHANGING = 7;
const NOTHING_YET: readonly string[] = ['0', '0', '0', '', '', '0', '0'];
const UNCHANGED = `\t${NOTHING_YET.join('\t')}`;
const NO_DEVICES: readonly string[] = [];

export function rowOf(r: StatusRecord): Row {
  const head = `${r.serverMessageId}\t${r.clientMessageId}\t${r.senderId}\t${r.recipientId}\t${r.acceptedAtMs}\t${r.position}`;
  const times = `${r.fingerprint}\t${r.receivedAtMs}\t${r.complete ? 1 : 0}\t${r.deliveredAtMs}\t${r.readAtMs}\t${r.failedAtMs}`;
  return `${head}\t${times}\t${r.code}\t${r.devices.join(',')}\t${r.takenAtMs}\t${r.transmittedAtMs}`;
}

/** The id at the head of a row, without the rest. */
export function idOf(row: Row): string {
  return row.slice(0, row.indexOf('\t'));
}

/** Where the acceptance of a row stands in the log. */
export function positionOf(row: Row): string {
  let from = 0;
  for (let field = 0; field < POSITION; field++) from = row.indexOf('\t', from) + 1;
  return row.slice(from, row.indexOf('\t', from));
}

export function recordOf(row: Row): StatusRecord {
  return new StoredRecord(row);
}

/** What never changes is read from the row when somebody asks: whoever drains a backlog asks for the rest. */
class StoredRecord implements StatusRecord {
  readonly deliveredAtMs: number;
  readonly readAtMs: number;
  readonly failedAtMs: number;
  readonly code: string;
  readonly devices: readonly string[];
  readonly takenAtMs: number;
  readonly transmittedAtMs: number;
  readonly #row: Row;
  #head: string[] | undefined;

  constructor(row: Row) {
    const [delivered, read, failed, code, devices, taken, transmitted] = changingOf(row);
    this.#row = row;
    this.deliveredAtMs = Number(delivered);
    this.readAtMs = Number(read);
    this.failedAtMs = Number(failed);
    this.code = code as string;
    this.devices = devices === '' ? NO_DEVICES : (devices as string).split(',');
    this.takenAtMs = Number(taken);
    this.transmittedAtMs = Number(transmitted);
  }

  get serverMessageId(): string {
    return this.#field(0);
  }

  get clientMessageId(): string {
    return this.#field(1);
  }

  get senderId(): string {
    return this.#field(2);
  }

  get recipientId(): string {
    return this.#field(3);
  }

  get acceptedAtMs(): number {
    return Number(this.#field(4));
  }

  get position(): string {
    return this.#field(POSITION);
  }

  get fingerprint(): string {
    return this.#field(6);
  }

  get receivedAtMs(): number {
    return Number(this.#field(7));
  }

  get complete(): boolean {
    return this.#field(8) === '1';
  }

  #field(index: number): string {
    this.#head ??= this.#row.split('\t', UNCHANGING);
    return this.#head[index] as string;
  }
}

/** The row with an update merged in: the earliest time of each kind stays, with its code. The same row when it says nothing new. */
export function merged(row: Row, update: StatusUpdate): Row {
  const end = endOfHead(row);
  const [delivered, read, failed, code, devices = '', taken, transmitted] = changingOf(row, end);
  const deliveredAtMs = earliest(Number(delivered), update.deliveredAtMs);
  const readAtMs = earliest(Number(read), update.readAtMs);
  const failedAtMs = earliest(Number(failed), update.failedAtMs);
  const { deviceId } = update;
  const all =
    devices === ''
      ? (deviceId ?? '')
      : deviceId === undefined || devices.split(',').includes(deviceId)
        ? devices
        : `${devices},${deviceId}`;
  const failsEarlier = failedAtMs !== Number(failed);
  const isDelivery = update.deliveredAtMs > 0;
  const takenAtMs = earliest(Number(taken), isDelivery ? update.takenAtMs : 0);
  const transmittedAtMs = earliest(Number(transmitted), isDelivery ? update.transmittedAtMs : 0);
  const told = `${failsEarlier ? update.code : code}\t${all}\t${takenAtMs}\t${transmittedAtMs}`;
  return `${row.slice(0, end)}\t${deliveredAtMs}\t${readAtMs}\t${failedAtMs}\t${told}`;
}

/** The row of another acceptance of the same message, with what has happened to it since. */
export function acceptedAt(row: Row, record: StatusRecord): Row {
  const other = rowOf(record);
  return `${other.slice(0, endOfHead(other))}${row.slice(endOfHead(row))}`;
}

/** Where the fields that never change end. */
function endOfHead(row: Row): number {
  // Most rows that are read are new.
  if (row.endsWith(UNCHANGED)) return row.length - UNCHANGED.length;
  let end = row.length;
  for (let field = 0; field < CHANGING; field++) end = row.lastIndexOf('\t', end - 1);
  return end;
}

function changingOf(row: Row, end = endOfHead(row)): readonly string[] {
  const changing = row.slice(end);
  return changing === UNCHANGED ? NOTHING_YET : changing.slice(1).split('\t');
}
