import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { confirmableId, deviceMark, receiptOf } from '../domain/events.js';
import type { InboxRow } from '../stores/inbox-store.js';
import type { Position } from '../stores/message-log.js';
import { DAMAGED, NOTHING_NEW, type StatusRecord } from '../stores/status-store.js';
import type { Confirmer } from './ledger.js';
import type { Owner } from './owner.js';
import type { Recipient } from './recipient.js';

/** What became of confirmations of events that were not in a device's window. The others are recorded. */
export interface LateResult {
  /** Ids of messages that were not sent to this user. */
  readonly unknown: readonly string[];
  /** Ids whose confirmation a store refused for another reason than an outage, and the last such reason. */
  readonly refused: readonly string[];
  readonly error: unknown;
}

/** Ids of one device that are looked up together. */
interface Batch {
  readonly deviceId: string;
  readonly status: MessageStatus;
  readonly ids: Set<string>;
  /**
   * Whether rows of theirs may be in the device's inbox: not where it was live whenever one of them came, for then it had been sent
   * all rows. A drain leaves rows alone that are being confirmed.
   */
  mayHaveRows: boolean;
  readonly outcome: Promise<Outcome>;
  readonly begin: () => void;
}

interface Outcome {
  readonly unknown: Set<string>;
  readonly refused: Map<string, unknown>;
}

/** Ids that are asked for at a time, and rows. */
const PAGE = 256;
/**
 * So far into an inbox lies what a device can have been sent and not confirmed: a window of messages and one of receipts, and what
 * was on its way to the disk.
 */
const MAX_ROWS_LOOKED_AT = 2048;

/**
 * Confirmations of events that are not in a window: confirmed long ago, sent in another session or owner's time, or never sent.
 * A client may name any id, so they are checked against the status records, and against the beginning of the inbox; one batch
 * of a user at a time, which gathers what comes meanwhile, and some of all users in each turn of the event loop.
 */
export class LateConfirmations {
  readonly #owner: Owner;
  /** What waits behind a user's batch that is being looked up. */
  readonly #waiting = new Map<Recipient, Batch[]>();

  constructor(owner: Owner) {
    this.#owner = owner;
  }

  /** Confirms events of a device. Rejects only when the owner stops. */
  async confirm(
    recipient: Recipient,
    deviceId: string,
    status: MessageStatus,
    ids: readonly string[],
  ): Promise<LateResult> {
    const queue = this.#waiting.get(recipient) ?? [];
    let batch = queue.find((waiting) => waiting.deviceId === deviceId && waiting.status === status);
    if (!batch) {
      batch = this.#batch(recipient, deviceId, status);
      queue.push(batch);
    }
    for (const id of ids) batch.ids.add(id);
    if (recipient.devices.get(deviceId)?.state !== 'live') batch.mayHaveRows = true;
    if (!this.#waiting.has(recipient)) {
      this.#waiting.set(recipient, queue);
      void this.#work(recipient, queue);
    }
    const { unknown, refused } = await batch.outcome;
    const mine = ids.filter((id) => refused.has(id));
    return {
      unknown: unknown.size === 0 ? [] : [...new Set(ids.filter((id) => unknown.has(id)))],
      refused: mine,
      error: refused.get(mine.at(-1) as string),
    };
  }

  #batch(recipient: Recipient, deviceId: string, status: MessageStatus): Batch {
    let begin = () => {};
    const begun = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const outcome: Promise<Outcome> = begun.then(() => this.#carryOut(recipient, batch));
    const batch: Batch = { deviceId, status, ids: new Set<string>(), mayHaveRows: false, outcome, begin };
    return batch;
  }

  async #work(recipient: Recipient, queue: Batch[]): Promise<void> {
    for (let batch = queue.shift(); batch; batch = queue.shift()) {
      batch.begin();
      // Whoever waits for it hears of a failure.
      await batch.outcome.catch(() => {});
    }
    this.#waiting.delete(recipient);
  }

  async #carryOut(recipient: Recipient, batch: Batch): Promise<Outcome> {
    const outcome: Outcome = { unknown: new Set(), refused: new Map() };
    if (batch.status === MessageStatus.UNSPECIFIED)
      await this.#removeByIds(recipient, batch, new Set(batch.ids), outcome);
    else {
      const all = [...batch.ids];
      for (let at = 0; at < all.length; at += PAGE)
        await this.#confirmMessages(recipient, batch, all.slice(at, at + PAGE), outcome);
    }
    return outcome;
  }

  async #confirmMessages(recipient: Recipient, batch: Batch, ids: readonly string[], outcome: Outcome): Promise<void> {
    const owner = this.#owner;
    const { userId } = recipient;
    const { deviceId, status } = batch;
    await owner.turns.take(ids.length);
    const records = await owner.recordsOf(ids, (id, error) => void outcome.refused.set(id, error));
    const confirmer: Confirmer = {
      userId,
      deviceId,
      status,
      refused: (id, error) => void outcome.refused.set(id, error),
    };
    const rows = new Map<string, Position>();
    /** Ids whose rows only their content names. */
    const byContent = new Set<string>();
    const atMs = owner.now();
    for (const [i, id] of ids.entries()) {
      const record = records[i];
      if (outcome.refused.has(id)) continue;
      // Whose it is a damaged record does not say: the row is found by its content.
      if (record === DAMAGED) byContent.add(id);
      else if (record?.recipientId === userId) {
        rows.set(id, record.position);
        this.#record(record, recipient, confirmer, atMs);
      } else if (record?.senderId === userId) {
        byContent.add(id);
        const update = { ...NOTHING_NEW, serverMessageId: id, deviceId: deviceMark(true, deviceId) };
        owner.confirmed({ confirmer, update, receipt: undefined, delivery: undefined });
      } else outcome.unknown.add(id);
    }
    await owner.barrier();
    for (const id of outcome.refused.keys()) {
      rows.delete(id);
      byContent.delete(id);
    }
    if (rows.size > 0 && batch.mayHaveRows) {
      // A row that cannot be removed stays; the status record keeps it from being sent again.
      await owner.remove(userId, deviceId, [...rows.values()]).catch((error) => owner.whileRunning(error));
    }
    // The same holds for these.
    if (byContent.size > 0) await this.#removeByIds(recipient, batch, byContent, { ...outcome, refused: new Map() });
  }

  #record(record: StatusRecord, recipient: Recipient, confirmer: Confirmer, atMs: number): void {
    const { deviceId, status } = confirmer;
    const read = status === MessageStatus.READ && recipient.readReceipts;
    const news = read ? record.readAtMs === 0 : record.deliveredAtMs === 0 && record.readAtMs === 0;
    const failed = record.failedAtMs !== 0;
    if (!news && record.devices.includes(deviceId)) return;
    recipient.confirmedLate(record.serverMessageId, atMs, read);
    if (record.deliveredAtMs === 0) this.#owner.onDelivered(record.acceptedAtMs, atMs);
    this.#owner.confirmed({
      confirmer,
      update: {
        ...NOTHING_NEW,
        serverMessageId: record.serverMessageId,
        deviceId,
        deliveredAtMs: atMs,
        readAtMs: read ? atMs : 0,
      },
      receipt:
        news && !failed ? receiptOf(record, read ? MessageStatus.READ : MessageStatus.DELIVERED, atMs) : undefined,
      delivery: undefined,
    });
  }

  /** Removes rows that only their content names, from where in a device's inbox they can be. */
  async #removeByIds(
    recipient: Recipient,
    { deviceId, mayHaveRows }: Batch,
    ids: Set<string>,
    { refused }: Outcome,
  ): Promise<void> {
    if (!mayHaveRows) return;
    const owner = this.#owner;
    const { userId } = recipient;
    let after: Position | undefined;
    try {
      for (let looked = 0; ids.size > 0 && looked < MAX_ROWS_LOOKED_AT; looked += PAGE) {
        await owner.turns.take(PAGE);
        const rows = await owner.whileUnavailable(() => owner.inbox.page(userId, deviceId, after, PAGE));
        if (rows.length === 0) return;
        // A receipt that was published again may stand here twice.
        const found = rows.filter((row) => ids.has(idOf(row)));
        for (const row of found) ids.delete(idOf(row));
        if (found.length > 0)
          await owner.remove(
            userId,
            deviceId,
            found.map((row) => row.position),
          );
        after = (rows.at(-1) as InboxRow).position;
      }
    } catch (error) {
      owner.whileRunning(error);
      for (const id of ids) refused.set(id, error);
    }
  }
}

function idOf(row: InboxRow): string {
  return confirmableId(LogEventWire.decode(row.payload)) ?? '';
}
