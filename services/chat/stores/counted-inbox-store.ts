import type { Metrics } from '@chatmesh/mesh';
import type { AgedInbox, InboxRow, InboxStore } from './inbox-store.js';
import type { Position } from './message-log.js';

/**
 * Counts the rows that this router adds to inboxes and removes from them. How many there are no router knows, and asking the
 * store would read everything: over all routers, what is added minus what is removed tells how that changes.
 */
export class CountedInboxStore implements InboxStore {
  readonly #inner: InboxStore;
  #appended = 0;
  #removed = 0;
  #pages = 0;

  constructor(inner: InboxStore, metrics: Metrics) {
    this.#inner = inner;
    metrics.counter(
      { name: 'chatmesh_inbox_rows_appended_total', help: 'Rows that this router has added to inboxes.' },
      () => this.#appended,
    );
    metrics.counter(
      {
        name: 'chatmesh_inbox_rows_removed_total',
        help: 'Rows that this router has removed from inboxes by position.',
      },
      () => this.#removed,
    );
    metrics.counter(
      { name: 'chatmesh_inbox_pages_total', help: 'Pages of inboxes that this router has read.' },
      () => this.#pages,
    );
  }

  async append(rows: readonly InboxRow[], nowMs: number): Promise<void> {
    await this.#inner.append(rows, nowMs);
    this.#appended += rows.length;
  }

  page(userId: string, deviceId: string, after: Position | undefined, limit: number): Promise<InboxRow[]> {
    this.#pages++;
    return this.#inner.page(userId, deviceId, after, limit);
  }

  async remove(userId: string, deviceId: string, positions: readonly Position[]): Promise<void> {
    await this.#inner.remove(userId, deviceId, positions);
    this.#removed += positions.length;
  }

  clear(userId: string, deviceId: string): Promise<void> {
    return this.#inner.clear(userId, deviceId);
  }

  aged(beforeMs: number): Promise<AgedInbox[]> {
    return this.#inner.aged(beforeMs);
  }

  forgetWeeks(beforeMs: number): Promise<void> {
    return this.#inner.forgetWeeks(beforeMs);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inner[Symbol.asyncDispose]();
  }
}
