import { randomUUID } from 'node:crypto';
import { DAMAGED, NOTHING_NEW, type StatusAnswer, type StatusRecord, type StatusUpdate } from '@chatmesh/chat';

/** A record as acceptance writes it. */
export function newRecord(acceptedAtMs: number, fields: Partial<StatusRecord> = {}): StatusRecord {
  return {
    serverMessageId: randomUUID(),
    clientMessageId: randomUUID(),
    senderId: randomUUID(),
    recipientId: randomUUID(),
    acceptedAtMs,
    position: '0000000000001',
    fingerprint: '0123456789abcdef0123456789abcdef',
    receivedAtMs: acceptedAtMs - 3,
    complete: acceptedAtMs % 2 === 0,
    deliveredAtMs: 0,
    readAtMs: 0,
    failedAtMs: 0,
    code: '',
    devices: [],
    takenAtMs: 0,
    transmittedAtMs: 0,
    ...fields,
  };
}

/** A record, where nothing should be damaged. */
export function sound(answer: StatusAnswer): StatusRecord | undefined {
  if (answer === DAMAGED) throw new Error('a record is damaged');
  return answer;
}

/** A copy to compare: a store may hand out records that read some fields only when they are asked for. */
export function plain(answer: StatusAnswer): StatusRecord | undefined {
  const record = sound(answer);
  if (!record) return undefined;
  const { serverMessageId, deliveredAtMs, readAtMs, failedAtMs, code, devices, takenAtMs, transmittedAtMs } = record;
  const happened = { deliveredAtMs, readAtMs, failedAtMs, code, devices, takenAtMs, transmittedAtMs };
  return { serverMessageId, ...acceptanceOf(record), ...happened };
}

/** An update of a record that says nothing but `fields`. */
export function updateOf(record: StatusRecord, fields: Partial<StatusUpdate>): StatusUpdate {
  return { ...NOTHING_NEW, serverMessageId: record.serverMessageId, ...fields };
}

/** What a status store has to answer, kept in the simplest way. */
export class StatusModel {
  readonly #records = new Map<string, StatusRecord>();
  readonly #ids: string[] = [];

  get size(): number {
    return this.#ids.length;
  }

  /** The n-th record in the order in which they were first written. */
  nth(n: number): StatusRecord {
    return this.#records.get(this.#ids[n] as string) as StatusRecord;
  }

  get(id: string): StatusRecord | undefined {
    return this.#records.get(id);
  }

  accept(records: readonly StatusRecord[]): void {
    for (const record of records) {
      const known = this.#records.get(record.serverMessageId);
      if (!known) this.#set(record);
      else if (record.position < known.position) this.#set({ ...known, ...acceptanceOf(record) });
    }
  }

  update(updates: readonly StatusUpdate[]): void {
    for (const update of updates) {
      const record = this.#records.get(update.serverMessageId) ?? update.base?.();
      if (!record) continue;
      const fails = update.failedAtMs > 0 && (record.failedAtMs === 0 || update.failedAtMs < record.failedAtMs);
      this.#set({
        ...record,
        deliveredAtMs: least(record.deliveredAtMs, update.deliveredAtMs),
        readAtMs: least(record.readAtMs, update.readAtMs),
        failedAtMs: least(record.failedAtMs, update.failedAtMs),
        code: fails ? update.code : record.code,
        takenAtMs: least(record.takenAtMs, update.deliveredAtMs && update.takenAtMs),
        transmittedAtMs: least(record.transmittedAtMs, update.deliveredAtMs && update.transmittedAtMs),
        devices: update.deviceId === undefined ? record.devices : [...new Set([...record.devices, update.deviceId])],
      });
    }
  }

  #set(record: StatusRecord): void {
    if (!this.#records.has(record.serverMessageId)) this.#ids.push(record.serverMessageId);
    this.#records.set(record.serverMessageId, record);
  }
}

function acceptanceOf(record: StatusRecord) {
  const { clientMessageId, senderId, recipientId, acceptedAtMs, position, fingerprint, receivedAtMs, complete } =
    record;
  return { clientMessageId, senderId, recipientId, acceptedAtMs, position, fingerprint, receivedAtMs, complete };
}

function least(...timesMs: number[]): number {
  const known = timesMs.filter((ms) => ms > 0);
  return known.length > 0 ? Math.min(...known) : 0;
}
