import { RecentIdMap } from '@chatmesh/mesh';
import type { Cassandra, PartitionWrite, Statement } from '@chatmesh/mesh/cassandra';
import { earliest, type StatusRecord, type StatusStore, type StatusUpdate } from './status-store.js';

const ACCEPTED = 0;
const DELIVERED = 1;
const READ = 2;
const FAILED = 3;
const CONFIRMED = 4;

const ACCEPT = `INSERT INTO message_status
  (server_message_id, kind, at_ms, detail, client_message_id, sender_id, recipient_id, fingerprint, received_at_ms,
   complete)
  VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?)`;
const HAPPEN = 'INSERT INTO message_status (server_message_id, kind, at_ms, detail) VALUES (?, ?, ?, ?)';
const DELIVER = `INSERT INTO message_status (server_message_id, kind, at_ms, detail, taken_at_ms, transmitted_at_ms)
  VALUES (?, 1, ?, ?, ?, ?)`;
const LOOK_UP = `SELECT server_message_id, kind, at_ms, detail, client_message_id, sender_id, recipient_id, fingerprint,
  received_at_ms, complete, taken_at_ms, transmitted_at_ms FROM message_status WHERE server_message_id IN ?`;
const EXIST =
  'SELECT server_message_id FROM message_status WHERE server_message_id IN ? AND kind = 0 PER PARTITION LIMIT 1';

/** Some acceptance, nobody knows which. */
const SOME = 0;
/** So many ids are remembered at the most, 50 bytes each. */
const KNOWN_IDS = 131_072;

interface Row {
  readonly server_message_id: { toString(): string };
  readonly kind: number;
  readonly at_ms: bigint;
  readonly detail: string;
  /** Set for kind ACCEPTED only, as the following. */
  readonly client_message_id: { toString(): string };
  readonly sender_id: { toString(): string };
  readonly recipient_id: { toString(): string };
  readonly fingerprint: Buffer;
  readonly received_at_ms: bigint;
  readonly complete: boolean | null;
  /** May be set for kind DELIVERED, as the following. */
  readonly taken_at_ms: bigint | null;
  readonly transmitted_at_ms: bigint | null;
}

/**
 * Status records as what happened to a message: one immutable row for each acceptance, delivery, reading, failure. Who reads
 * takes the earliest of each kind. So writers need neither to read before they write nor to agree on an order: whatever they
 * write twice, late or at the same time, everybody finds the same record.
 *
 * Of several acceptances the one with the lowest position counts: the owner of the recipient meets that one first.
 */
export class CassandraStatusStore implements StatusStore {
  readonly #cassandra: Cassandra;
  /** Messages that have a record for certain: what confirms them needs no look-up. With which acceptance, as {@link markOf} tells them apart. */
  readonly #known = new RecentIdMap(KNOWN_IDS);

  constructor(cassandra: Cassandra) {
    this.#cassandra = cassandra;
  }

  async accept(records: readonly StatusRecord[]): Promise<void> {
    const news = records.filter(
      ({ serverMessageId, position }) => this.#known.get(serverMessageId) !== markOf(position),
    );
    await this.#cassandra.writeAll(
      news.map((record) => ({ key: record.serverMessageId, statements: [acceptance(record)] })),
    );
    for (const { serverMessageId, position } of news) this.#known.set(serverMessageId, markOf(position));
  }

  async get(serverMessageIds: readonly string[]): Promise<(StatusRecord | undefined)[]> {
    const rows = new Map<string, Row[]>();
    for (const row of await this.#cassandra.readAll<Row>(LOOK_UP, serverMessageIds)) {
      const id = row.server_message_id.toString();
      const others = rows.get(id);
      if (others) others.push(row);
      else rows.set(id, [row]);
    }
    return serverMessageIds.map((id) => {
      const record = recordOf(id, rows.get(id) ?? []);
      if (record) this.#known.set(id, markOf(record.position));
      return record;
    });
  }

  async update(updates: readonly StatusUpdate[]): Promise<void> {
    const byMessage = new Map<string, StatusUpdate[]>();
    for (const update of updates) {
      const others = byMessage.get(update.serverMessageId);
      if (others) others.push(update);
      else byMessage.set(update.serverMessageId, [update]);
    }
    const recorded = await this.#recorded(byMessage);
    const written: StatusRecord[] = [];
    const writes: PartitionWrite[] = [];
    for (const [id, updates] of byMessage) {
      const known = recorded.has(id);
      const firstBase = updates.findIndex((update) => update.base !== undefined);
      const counting = known ? updates : firstBase < 0 ? [] : updates.slice(firstBase);
      const base = known ? undefined : counting[0]?.base?.();
      const statements = [...(base ? [acceptance(base)] : []), ...counting.flatMap(happenings)];
      if (statements.length > 0) writes.push({ key: id, statements });
      if (base) written.push(base);
    }
    await this.#cassandra.writeAll(writes);
    for (const { serverMessageId, position } of written) this.#known.set(serverMessageId, markOf(position));
  }

  /** Nothing to do: the table's time to live expires records, 380 days after they were written. */
  async expire(): Promise<boolean> {
    return false;
  }

  /** The connection is its maker's to close. */
  async [Symbol.asyncDispose](): Promise<void> {}

  /** Which messages have a record; those that can be given one are not looked for. */
  async #recorded(updates: ReadonlyMap<string, readonly StatusUpdate[]>): Promise<Set<string>> {
    const recorded = new Set<string>();
    const unknown: string[] = [];
    for (const [id, [first]] of updates) {
      if (this.#known.get(id) !== undefined) recorded.add(id);
      else if (first?.base === undefined) unknown.push(id);
    }
    for (const { server_message_id } of await this.#cassandra.readAll<Row>(EXIST, unknown)) {
      const id = server_message_id.toString();
      recorded.add(id);
      this.#known.set(id, SOME);
    }
    return recorded;
  }
}

/** A number of 1 and more for a position: what of its digits a number can hold, the last ones, in which two of one key hardly agree. */
function markOf(position: string): number {
  return 1 + Number.parseInt(position.slice(-13), 16);
}

function acceptance(record: StatusRecord): Statement {
  const { serverMessageId, acceptedAtMs, position, clientMessageId, senderId, recipientId } = record;
  const { fingerprint, receivedAtMs, complete } = record;
  const hash = Buffer.from(fingerprint, 'hex');
  return {
    cql: ACCEPT,
    params: [
      serverMessageId,
      BigInt(acceptedAtMs),
      position,
      clientMessageId,
      senderId,
      recipientId,
      hash,
      BigInt(receivedAtMs),
      // What is undefined is not written: whoever does not know leaves what acceptance has said.
      complete || undefined,
    ],
  };
}

function happenings(update: StatusUpdate): Statement[] {
  const { serverMessageId, deliveredAtMs, readAtMs, failedAtMs, code, deviceId = '' } = update;
  const { takenAtMs, transmittedAtMs } = update;
  const rows: Statement[] = [];
  const happened = (kind: number, atMs: number, detail: string) =>
    rows.push({ cql: HAPPEN, params: [serverMessageId, kind, BigInt(atMs), detail] });
  if (deliveredAtMs > 0) {
    const times = [takenAtMs, transmittedAtMs].map((ms) => (ms > 0 ? BigInt(ms) : undefined));
    rows.push({ cql: DELIVER, params: [serverMessageId, BigInt(deliveredAtMs), deviceId, ...times] });
  }
  if (readAtMs > 0) happened(READ, readAtMs, deviceId);
  if (failedAtMs > 0) happened(FAILED, failedAtMs, code);
  if (deviceId !== '' && deliveredAtMs === 0 && readAtMs === 0) happened(CONFIRMED, 0, deviceId);
  return rows;
}

/** The record that a message's rows make, which come in the order of kind and time; undefined when it was not accepted. */
function recordOf(serverMessageId: string, rows: readonly Row[]): StatusRecord | undefined {
  let accepted: Row | undefined;
  const first = new Map<number, Row>();
  const devices = new Set<string>();
  let takenAtMs = 0;
  let transmittedAtMs = 0;
  for (const row of rows) {
    if (row.kind === ACCEPTED) {
      if (!accepted || row.detail < accepted.detail) accepted = row;
      continue;
    }
    if (!first.has(row.kind)) first.set(row.kind, row);
    if (row.kind !== FAILED && row.detail !== '') devices.add(row.detail);
    takenAtMs = earliest(takenAtMs, Number(row.taken_at_ms ?? 0));
    transmittedAtMs = earliest(transmittedAtMs, Number(row.transmitted_at_ms ?? 0));
  }
  if (!accepted) return undefined;
  const atMs = (kind: number) => Number(first.get(kind)?.at_ms ?? 0);
  return {
    serverMessageId,
    clientMessageId: accepted.client_message_id.toString(),
    senderId: accepted.sender_id.toString(),
    recipientId: accepted.recipient_id.toString(),
    acceptedAtMs: Number(accepted.at_ms),
    position: accepted.detail,
    fingerprint: accepted.fingerprint.toString('hex'),
    receivedAtMs: Number(accepted.received_at_ms),
    complete: accepted.complete ?? false,
    deliveredAtMs: atMs(DELIVERED),
    readAtMs: atMs(READ),
    failedAtMs: atMs(FAILED),
    code: first.get(FAILED)?.detail ?? '',
    devices: [...devices],
    takenAtMs,
    transmittedAtMs,
  };
}
