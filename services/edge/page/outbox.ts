import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import type { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { backoffMs, pause } from './backoff.js';
import type { Entry, Outcome, Store } from './store.js';

/** With these the server has refused the message itself: sending it again would not help. */
const REFUSALS = new Map([
  [Code.InvalidArgument, 'invalid_argument'],
  [Code.NotFound, 'not_found'],
  [Code.AlreadyExists, 'already_exists'],
  [Code.PermissionDenied, 'permission_denied'],
  [Code.FailedPrecondition, 'failed_precondition'],
]);

const SEND_TIMEOUT_MS = 15_000;

export interface OutboxOptions {
  readonly client: Client<typeof ChatService>;
  readonly store: Store;
  readonly me: string;
  /** False while there is no connection: nothing is sent then. */
  readonly up: () => boolean;
  /** Ends everything. */
  readonly signal: AbortSignal;
}

/** Sends what waits in the store, one at a time, in the order of writing, whichever tab it was written in. */
export class Outbox {
  readonly #options: OutboxOptions;
  #working = false;
  #asked = false;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  /** Sends what waits, now or as soon as the message in flight is answered. */
  pump(): void {
    this.#asked = true;
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    const { me, up, signal } = this.#options;
    this.#working = true;
    while (this.#asked && up() && !signal.aborted) {
      this.#asked = false;
      try {
        // One tab of a browser at a time: two would overtake each other.
        await navigator.locks.request(`chatmesh outbox ${me}`, { signal }, () => this.#drain());
      } catch {
        // Closed, or the store has failed, of which the link hears as well.
      }
    }
    this.#working = false;
  }

  async #drain(): Promise<void> {
    const { store, up, signal } = this.#options;
    let attempt = 0;
    while (up() && !signal.aborted) {
      const entry = await store.nextPending();
      if (!entry) return;
      const outcome = await this.#send(entry);
      if (typeof outcome !== 'number') {
        attempt = 0;
        await store.settle(outcome);
      } else await pause(outcome || backoffMs(attempt++), signal);
    }
  }

  /** What became of the message, or the milliseconds after which to ask again, 0 when the server did not say. */
  async #send({ me, peer, text, atMs, clientMessageId = '' }: Entry): Promise<Outcome | number> {
    try {
      const { accepted } = await this.#options.client.send(
        {
          message: {
            senderId: me,
            target: { case: 'receiverId', value: peer },
            payload: { case: 'content', value: text },
            timestamp: timestampFromMs(atMs),
            clientMessageId,
          },
        },
        { signal: this.#options.signal, timeoutMs: SEND_TIMEOUT_MS },
      );
      if (!accepted?.timestamp) return 0;
      const { serverMessageId, timestamp } = accepted;
      return { clientMessageId, serverMessageId, status: 'sent', acceptedAtMs: timestampMs(timestamp) };
    } catch (error) {
      const { code, metadata } = ConnectError.from(error);
      const reason = REFUSALS.get(code);
      if (reason !== undefined) return { clientMessageId, serverMessageId: '', status: 'failed', reason };
      return Number(metadata.get('retry-after-ms')) || 0;
    }
  }
}
