import { backoffMs } from './backoff.js';
import { ChatError } from './errors.js';
import type { AcceptedFrame, ErrorFrame, SendFrame } from './frames.js';

/** A message that the server has, durably. */
export interface Sent {
  clientMessageId: string;
  serverMessageId: string;
  /** The server's clock, RFC 3339. */
  timestamp: string;
  /** True when an earlier attempt had been accepted already; nothing is delivered twice. */
  deduplicated: boolean;
}

interface Entry {
  readonly frame: SendFrame;
  readonly answer: Promise<Sent>;
  readonly resolve: (sent: Sent) => void;
  readonly reject: (error: Error) => void;
  /** waiting -> transmitted -> gone; back to waiting when the connection is lost or the server asks for a retry. */
  transmitted: boolean;
}

const retried = new Set(['unavailable', 'resource_exhausted']);

/** What was sent and not yet answered, in the order of sending, transmitted in that order over any number of connections. */
export class Outbox {
  readonly #entries = new Map<string, Entry>();
  #waiting: Entry[] = [];
  #refusals = 0;
  #pause: ReturnType<typeof setTimeout> | undefined;

  /**
   * @param send returns false when there is no connection
   * @param capacity how many messages may wait for their answer
   * @param longestDelayMs between attempts, where the server does not say
   */
  constructor(
    private readonly send: (frame: SendFrame) => boolean,
    private readonly capacity: number,
    private readonly longestDelayMs: number,
  ) {}

  /** Resolves when the server has the message; rejects with a ChatError when it refuses for good. */
  add(frame: SendFrame): Promise<Sent> {
    const id = frame.client_message_id;
    const same = this.#entries.get(id);
    if (same !== undefined) {
      if (same.frame.content === frame.content && same.frame.receiver_id === frame.receiver_id) return same.answer;
      return Promise.reject(new ChatError('already_exists', `${id} is already on its way with another content`));
    }
    if (this.#entries.size >= this.capacity) {
      return Promise.reject(new ChatError('resource_exhausted', `${this.capacity} messages wait for their answer`));
    }
    const { promise: answer, resolve, reject } = withResolvers<Sent>();
    const entry: Entry = { frame, answer, resolve, reject, transmitted: false };
    this.#entries.set(id, entry);
    this.#waiting.push(entry);
    this.flush();
    return answer;
  }

  /** Transmits what waits, unless the server asked to wait or there is no connection. */
  flush(): void {
    if (this.#pause !== undefined || this.#waiting.length === 0) return;
    let count = 0;
    for (const entry of this.#waiting) {
      if (!this.send(entry.frame)) break;
      entry.transmitted = true;
      count += 1;
    }
    this.#waiting.splice(0, count);
  }

  accepted(frame: AcceptedFrame): void {
    const entry = this.#take(frame.client_message_id);
    this.#refusals = 0;
    entry?.resolve({
      clientMessageId: frame.client_message_id,
      serverMessageId: frame.server_message_id,
      timestamp: frame.timestamp,
      deduplicated: frame.deduplicated === true,
    });
  }

  /** Returns false when the refusal concerns none of these messages. */
  refused({ error, client_message_id: id }: ErrorFrame): boolean {
    const entry = id === undefined ? undefined : this.#entries.get(id);
    if (entry === undefined) return false;
    if (!retried.has(error.code)) {
      this.#take(entry.frame.client_message_id)?.reject(new ChatError(error.code, error.message, error.retry_after_ms));
      return true;
    }
    entry.transmitted = false;
    // Everything waits, not only this message: later ones would overtake it.
    this.#pause ??= setTimeout(
      () => {
        this.#pause = undefined;
        this.#restart();
      },
      error.retry_after_ms || backoffMs(this.#refusals++, this.longestDelayMs),
    );
    return true;
  }

  /** The connection is gone: whatever has no answer goes out again on the next one. */
  connectionLost(): void {
    for (const entry of this.#entries.values()) entry.transmitted = false;
    this.#waiting = [...this.#entries.values()];
  }

  /** Gives everything up. */
  close(error: ChatError): void {
    clearTimeout(this.#pause);
    this.#waiting = [];
    for (const entry of this.#entries.values()) entry.reject(error);
    this.#entries.clear();
  }

  #restart(): void {
    this.#waiting = [...this.#entries.values()].filter((entry) => !entry.transmitted);
    this.flush();
  }

  #take(id: string): Entry | undefined {
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    return entry;
  }
}

function withResolvers<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
