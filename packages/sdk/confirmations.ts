import type { ClientFrame } from './frames.js';
import { nextTurn } from './turn.js';

const maxIdsPerFrame = 256;
/** The server notices a dead connection after 60 s at the latest: what was sent before that has arrived. */
const doubtfulMs = 60_000;
const maxDoubtful = 4096;

/**
 * Gathers what one turn of the event loop confirms and sends it in as few frames as possible. What cannot be sent waits
 * for the next connection.
 *
 * Confirmations are not answered. One that got lost with its connection shows when the server repeats the message or
 * the receipt, except a `read` after a `delivered`, which nothing repeats: the last of those are sent again.
 */
export class Confirmations {
  readonly #delivered = new Set<string>();
  readonly #read = new Set<string>();
  readonly #events = new Set<string>();
  /** id to when it was sent. */
  readonly #doubtfulReads = new Map<string, number>();
  #scheduled = false;

  /** @param send returns false when there is no connection */
  constructor(private readonly send: (frame: ClientFrame) => boolean) {}

  message(id: string, status: 'delivered' | 'read'): void {
    if (status === 'read') {
      this.#delivered.delete(id);
      this.#read.add(id);
    } else if (!this.#read.has(id)) {
      this.#delivered.add(id);
    }
    this.#schedule();
  }

  event(id: string): void {
    this.#events.add(id);
    this.#schedule();
  }

  /** A new connection is there. */
  reconnected(): void {
    const sinceMs = performance.now() - doubtfulMs;
    for (const [id, atMs] of this.#doubtfulReads) if (atMs >= sinceMs) this.#read.add(id);
    this.#doubtfulReads.clear();
    this.flush();
  }

  flush(): void {
    this.#drain(this.#read, (ids) => ({ status: 'read', server_message_ids: ids }));
    this.#drain(this.#delivered, (ids) => ({ status: 'delivered', server_message_ids: ids }));
    this.#drain(this.#events, (ids) => ({ ack: ids }));
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    nextTurn(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  #drain(waiting: Set<string>, frame: (ids: string[]) => ClientFrame): void {
    while (waiting.size > 0) {
      const ids: string[] = [];
      for (const id of waiting) if (ids.push(id) === maxIdsPerFrame) break;
      if (!this.send(frame(ids))) return;
      for (const id of ids) {
        waiting.delete(id);
        if (waiting === this.#read) this.#doubt(id);
      }
    }
  }

  #doubt(id: string): void {
    this.#doubtfulReads.set(id, performance.now());
    if (this.#doubtfulReads.size > maxDoubtful) {
      for (const oldest of this.#doubtfulReads.keys()) {
        this.#doubtfulReads.delete(oldest);
        break;
      }
    }
  }
}
