import type { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { Client } from '@connectrpc/connect';
import { backoffMs, pause } from './backoff.js';

/** Ids in one list of a call. */
const MAX_IDS = 256;

/**
 * What the server has yet to be told: messages that are stored or read, receipts and events that are stored. Kept in
 * memory only, since the server sends again what nobody has confirmed, and the store knows what is unread.
 */
export class Confirmations {
  readonly #client: Client<typeof ChatService>;
  readonly #readTaken: (serverMessageIds: string[]) => Promise<void>;
  readonly #signal: AbortSignal;
  readonly #delivered = new Set<string>();
  readonly #read = new Set<string>();
  readonly #events = new Set<string>();
  #working = false;

  /** `readTaken` is told which messages the server knows to be read. */
  constructor(
    client: Client<typeof ChatService>,
    readTaken: (serverMessageIds: string[]) => Promise<void>,
    signal: AbortSignal,
  ) {
    this.#client = client;
    this.#readTaken = readTaken;
    this.#signal = signal;
  }

  /** Confirms stored things; ids that are on their way already may be given again. */
  add(ids: { delivered?: Iterable<string>; read?: Iterable<string>; events?: Iterable<string> }): void {
    for (const id of ids.read ?? []) this.#read.add(id);
    for (const id of ids.delivered ?? []) this.#delivered.add(id);
    for (const id of ids.events ?? []) this.#events.add(id);
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    // What one turn of the event loop gathers goes out together.
    await Promise.resolve();
    for (let attempt = 0; this.#read.size + this.#delivered.size + this.#events.size > 0; ) {
      if (this.#signal.aborted) break;
      const read = first(this.#read);
      const delivered = first(this.#delivered);
      const events = first(this.#events);
      try {
        await this.#client.acknowledge(
          {
            receipts: [
              { status: MessageStatus.READ, serverMessageIds: read },
              { status: MessageStatus.DELIVERED, serverMessageIds: delivered },
            ].filter(({ serverMessageIds }) => serverMessageIds.length > 0),
            eventIds: events,
          },
          { signal: this.#signal, timeoutMs: 15_000 },
        );
        await this.#readTaken(read);
        for (const id of read) this.#read.delete(id);
        for (const id of delivered) this.#delivered.delete(id);
        for (const id of events) this.#events.delete(id);
        attempt = 0;
      } catch {
        // The page says elsewhere that there is no connection.
        await pause(backoffMs(attempt++), this.#signal);
      }
    }
    this.#working = false;
  }
}

function first(ids: Set<string>): string[] {
  return [...ids].slice(0, MAX_IDS);
}
