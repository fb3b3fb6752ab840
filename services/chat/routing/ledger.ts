import type { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { LogEvent } from '@chatmesh/gen/chat/v1/log';
import { ChurnSet, MeshError, sleep } from '@chatmesh/mesh';
import type { InboxRow, InboxStore } from '../stores/inbox-store.js';
import type { LogConsumer, LogRecord, MessageLog, Position } from '../stores/message-log.js';
import type { StatusRecord, StatusStore, StatusUpdate } from '../stores/status-store.js';
import type { Delivery } from './device.js';

/** What the ledger reports back when something is durable. */
export interface LedgerListener {
  /** The delivery's row is in the inbox. */
  stored(delivery: Delivery): void;
  /** The delivery's confirmation is durable, and its row is gone from the inbox if it had one. */
  settled(delivery: Delivery): void;
  /** The row could not be stored for another reason than an outage. */
  unstorable(delivery: Delivery, error: MeshError): void;
  /** The confirmation could not be recorded for another reason than an outage. Resolves when it is kept elsewhere. */
  unrecordable(confirmed: Confirmed, error: unknown): Promise<void>;
}

export interface LedgerStores {
  readonly log: MessageLog;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
}

/** Who confirms; one for everything that was confirmed together. */
export interface Confirmer {
  readonly userId: string;
  readonly deviceId: string;
  readonly status: MessageStatus;
  /** Told of an id whose confirmation a store refuses: whoever listens tries again. Without it, that is the log's affair. */
  readonly refused: ((id: string, error: unknown) => void) | undefined;
}

/** A confirmation that is to be recorded. */
export interface Confirmed {
  readonly confirmer: Confirmer;
  readonly update: StatusUpdate | undefined;
  readonly receipt: LogEvent | undefined;
  readonly delivery: Delivery | undefined;
}

const FIRST_RETRY_MS = 100;
const LAST_RETRY_MS = 5_000;

/**
 * Writes what the owner decides, in batches, and keeps the order that the promises rest on: a confirmation and its
 * receipt are durable before the event leaves the log or the inbox; a row is in the inbox, and the message has its status
 * record, before the log forgets it. A store that is unavailable is waited for; meanwhile the next batch grows.
 */
export class Ledger {
  readonly #stores: LedgerStores;
  readonly #listener: LedgerListener;
  readonly #now: () => number;
  readonly #signal: AbortSignal;
  #consumer: LogConsumer | undefined;
  #appends: Delivery[] = [];
  #confirmed: Confirmed[] = [];
  #handled: LogRecord[] = [];
  #appending = false;
  #confirming = false;
  #acknowledging = false;
  /** Removals of rows on their way. */
  readonly #removals = new ChurnSet<Promise<void>>();
  #barriers: (() => void)[] = [];

  constructor(stores: LedgerStores, listener: LedgerListener, options: { now: () => number; signal: AbortSignal }) {
    this.#stores = stores;
    this.#listener = listener;
    this.#now = options.now;
    this.#signal = options.signal;
  }

  /** Whose records {@link acknowledge} acknowledges. */
  set consumer(consumer: LogConsumer) {
    this.#consumer = consumer;
  }

  /** Puts a delivery's row into the inbox of its device. */
  append(delivery: Delivery): void {
    this.#appends.push(delivery);
    if (this.#appending) return;
    this.#appending = true;
    queueMicrotask(() => void this.#writeAppends());
  }

  /** Records a confirmation, publishes its receipt, then settles the delivery. */
  confirm(confirmed: Confirmed): void {
    this.#confirmed.push(confirmed);
    if (this.#confirming) return;
    this.#confirming = true;
    queueMicrotask(() => void this.#writeConfirmed());
  }

  /** Resolves when every confirmation handed in so far is durable; at once when there is none. */
  barrier(): Promise<void> {
    if (!this.#confirming) return Promise.resolve();
    return new Promise((resolve) => this.#barriers.push(resolve));
  }

  /** Resolves when everything handed in so far is written. */
  async settled(): Promise<void> {
    while (this.#appending || this.#confirming || this.#acknowledging)
      await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Lets the log forget a record: everything about it is durable elsewhere. */
  acknowledge(record: LogRecord): void {
    this.#handled.push(record);
    if (this.#acknowledging) return;
    this.#acknowledging = true;
    setImmediate(() => this.#acknowledgeHandled());
  }

  #acknowledgeHandled(): void {
    this.#acknowledging = false;
    const handled = this.#handled;
    this.#handled = [];
    if (handled.length > 0) this.#consumer?.acknowledge(handled);
  }

  /**
   * Resolves when every acknowledgement and every removal decided so far is durable.
   *
   * @throws MeshError `unavailable`
   */
  async flushed(): Promise<void> {
    this.#acknowledgeHandled();
    await Promise.all([...this.#removals, this.#consumer?.flushed()]);
  }

  /** Runs `attempt` until it succeeds or fails for another reason than an outage. */
  async whileUnavailable<T>(attempt: () => Promise<T>): Promise<T> {
    for (let delayMs = FIRST_RETRY_MS; ; delayMs = Math.min(LAST_RETRY_MS, delayMs * 2)) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof MeshError) || !isOutage(error)) throw error;
        await sleep(delayMs, { signal: this.#signal });
      }
    }
  }

  async #writeAppends(): Promise<void> {
    while (this.#appends.length > 0) {
      const batch = this.#appends;
      this.#appends = [];
      try {
        await this.#store(batch);
        this.#storedAll(batch);
      } catch {
        if (this.#signal.aborted) return;
        // One bad row must not take the others with it.
        for (const delivery of batch) await this.#storeAlone(delivery);
      }
    }
    this.#appending = false;
  }

  #store(batch: readonly Delivery[]): Promise<unknown> {
    return this.whileUnavailable(() => {
      // The others are a next owner's by now, who may have had them confirmed: a row of an attempt after that would stay.
      const own = batch.filter(({ device }) => !device.recipient.abandoned);
      const rows = own.map(rowOf);
      const records = own
        .map(({ tracked, position }) => baseRecord(tracked.message, position))
        .filter((r) => r !== undefined);
      return Promise.all([this.#stores.inbox.append(rows, this.#now()), this.#stores.statuses.accept(records)]);
    });
  }

  async #storeAlone(delivery: Delivery): Promise<void> {
    try {
      await this.#store([delivery]);
      this.#storedAll([delivery]);
    } catch (error) {
      if (this.#signal.aborted) return;
      this.#listener.unstorable(
        delivery,
        error instanceof MeshError ? error : new MeshError('internal', 'inbox append failed', { cause: error }),
      );
    }
  }

  async #writeConfirmed(): Promise<void> {
    try {
      // A barrier that was set while a batch was written has perhaps no confirmation before it.
      while (this.#confirmed.length > 0 || this.#barriers.length > 0) {
        const batch = this.#confirmed;
        const barriers = this.#barriers;
        this.#confirmed = [];
        this.#barriers = [];
        if (batch.length > 0) await this.#record(batch);
        for (const barrier of barriers) barrier();
        this.#settle(batch);
      }
    } catch (error) {
      if (!this.#signal.aborted) throw error;
    } finally {
      this.#confirming = false;
    }
  }

  /** Publishes the receipts of confirmations and records these. */
  async #record(batch: readonly Confirmed[]): Promise<void> {
    const updates = batch.map((c) => c.update).filter((u) => u !== undefined);
    const receipts = batch.map((c) => c.receipt).filter((r) => r !== undefined);
    let published = false;
    try {
      await this.#publishAndRecord(receipts, updates, () => {
        published = true;
      });
    } catch (error) {
      if (this.#signal.aborted) throw error;
      // One refused row must not take the others with it.
      await Promise.all(batch.map((confirmed) => this.#recordAlone(confirmed, published)));
    }
  }

  async #recordAlone(confirmed: Confirmed, published: boolean): Promise<void> {
    const { receipt, update } = confirmed;
    try {
      await this.#publishAndRecord(receipt && !published ? [receipt] : [], update ? [update] : [], () => {});
    } catch (error) {
      if (this.#signal.aborted) throw error;
      await this.#listener.unrecordable(confirmed, error);
    }
  }

  /** In this order: a recorded confirmation proves that its receipt was published, so that nobody publishes it again. */
  async #publishAndRecord(
    receipts: readonly LogEvent[],
    updates: readonly StatusUpdate[],
    published: () => void,
  ): Promise<void> {
    const { log, statuses } = this.#stores;
    let recorded: Promise<void> | undefined;
    const record = () => {
      recorded = statuses.update(updates);
      recorded.catch(() => {});
    };
    if (receipts.length > 0) await this.whileUnavailable(() => log.publish(receipts, record));
    published();
    await this.whileUnavailable(() => {
      const first = recorded;
      recorded = undefined;
      return first ?? statuses.update(updates);
    });
  }

  #storedAll(deliveries: readonly Delivery[]): void {
    for (const delivery of deliveries) {
      delivery.row = 'written';
      this.#listener.stored(delivery);
    }
    this.#removeRows(deliveries.filter((delivery) => delivery.confirmedEarly));
  }

  #settle(batch: readonly Confirmed[]): void {
    const stored: Delivery[] = [];
    for (const { delivery } of batch) {
      if (!delivery) continue;
      if (delivery.row === 'none') this.#listener.settled(delivery);
      else if (delivery.row === 'written') stored.push(delivery);
      else delivery.confirmedEarly = true;
    }
    this.#removeRows(stored);
  }

  /** Removes the rows of confirmed deliveries, then settles them. */
  #removeRows(deliveries: readonly Delivery[]): void {
    const byDevice = new Map<Delivery['device'], Delivery[]>();
    for (const delivery of deliveries) {
      const rows = byDevice.get(delivery.device);
      if (rows) rows.push(delivery);
      else byDevice.set(delivery.device, [delivery]);
    }
    for (const [device, rows] of byDevice) {
      // Where a row cannot be removed it stays; the status record keeps it from being sent again.
      void this.remove(
        device.recipient.userId,
        device.id,
        rows.map((row) => row.position),
      )
        .catch(() => device.recipient.doubt())
        .then(() => {
          for (const row of rows) this.#listener.settled(row);
        });
    }
  }

  /** Removes rows whose confirmation is durable. */
  remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    const removal = this.whileUnavailable(() => this.#stores.inbox.remove(userId, deviceId, positions));
    this.#removals.add(removal);
    const forget = () => void this.#removals.delete(removal);
    removal.then(forget, forget);
    return removal;
  }
}

function isOutage(error: MeshError): boolean {
  return error.kind === 'unavailable' || error.kind === 'deadline_exceeded';
}

function rowOf({ device, position, tracked }: Delivery): InboxRow {
  return { userId: device.recipient.userId, deviceId: device.id, position, payload: tracked.payload };
}

/**
 * The status record that acceptance writes, from the event itself: an owner restores it where acceptance did not get so far.
 *
 * @param complete what acceptance knows.
 */
export function baseRecord(
  message: Delivery['tracked']['message'],
  position: Position,
  complete = false,
): StatusRecord | undefined {
  if (!message || message.copy) return undefined;
  return {
    serverMessageId: message.serverMessageId,
    clientMessageId: message.clientMessageId,
    senderId: message.senderId,
    recipientId: message.receiverId,
    acceptedAtMs: Number(message.acceptedAtMs),
    position,
    fingerprint: message.fingerprint,
    receivedAtMs: Number(message.receivedAtMs),
    complete,
    deliveredAtMs: 0,
    readAtMs: 0,
    failedAtMs: 0,
    code: '',
    devices: [],
    takenAtMs: 0,
    transmittedAtMs: 0,
  };
}
