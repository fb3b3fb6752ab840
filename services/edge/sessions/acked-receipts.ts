import { RecentIdMap } from '@chatmesh/mesh';

const MAX_RECEIPTS = 131_072;
/** No session has this number. */
const NOBODY = 0;

/**
 * Which session acked a receipt last, of the receipts that were pushed here of late. A router that dies after it has published
 * a receipt, and before that is on record, leaves the next one to publish it again, for whoever owns the sender by then: only
 * here it is known to have arrived. What a client acks and no router pushed leaves nothing behind.
 */
export class AckedReceipts {
  readonly #ids = new RecentIdMap(MAX_RECEIPTS);

  /** How many receipts are remembered, 50 bytes each. */
  get size(): number {
    return this.#ids.size;
  }

  /** Notes that a receipt is pushed to a session; true when that one has acked it already. */
  pushed(eventId: string, session: number): boolean {
    const acked = this.#ids.get(eventId);
    if (acked === undefined) this.#ids.set(eventId, NOBODY);
    return acked === session;
  }

  /** Notes that a session acked receipts. */
  acked(eventIds: readonly string[], session: number): void {
    for (const id of eventIds) if (this.#ids.get(id) !== undefined) this.#ids.set(id, session);
  }
}
