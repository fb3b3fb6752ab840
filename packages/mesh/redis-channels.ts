import { inTime } from './abort.js';
import { MeshError } from './errors.js';
import { redisError } from './redis-errors.js';

/** So long a subscription may take. */
const SUBSCRIBE_MS = 2_000;

/** What the driver's clients have in common here. */
export interface Subscriber {
  /** The event after which it has subscribed again to everything, at the first time and after each connection lost. */
  readonly resumed: string;
  readonly client: {
    connect(): Promise<void>;
    disconnect(): void;
    ssubscribe(channel: string): Promise<unknown>;
    sunsubscribe(channel: string): Promise<unknown>;
    on(event: string, listener: (channel: string) => void): unknown;
  };
}

interface Channel {
  readonly listeners: Set<() => void>;
  readonly subscribed: Promise<void>;
}

/**
 * Sharded channels of Redis 7: in a cluster a message stays on the node that has the slot of its channel's name. Subscriptions have
 * connections of their own, which are made with the first one and come back by themselves.
 */
export class RedisChannels {
  readonly #open: () => Subscriber;
  readonly #channels = new Map<string, Channel>();
  #client: Subscriber['client'] | undefined;

  /** @param open makes a client that is not connected yet. */
  constructor(open: () => Subscriber) {
    this.#open = open;
  }

  /**
   * Calls `onMessage` with each message on a channel, until the function returned is called, and whenever one may have been missed
   * because a connection was lost.
   *
   * @throws MeshError `unavailable`
   */
  async subscribe(channel: string, onMessage: () => void): Promise<() => void> {
    // One function may subscribe twice.
    const listener = () => onMessage();
    let joined = this.#channels.get(channel);
    if (!joined) {
      joined = { listeners: new Set(), subscribed: this.#subscribe(channel) };
      this.#channels.set(channel, joined);
    }
    joined.listeners.add(listener);
    try {
      await joined.subscribed;
    } catch (error) {
      if (this.#channels.get(channel) === joined) this.#channels.delete(channel);
      throw error;
    }
    return () => this.#leave(channel, listener);
  }

  close(): void {
    this.#channels.clear();
    this.#client?.disconnect();
  }

  async #subscribe(channel: string): Promise<void> {
    this.#client ??= this.#connect();
    const client = this.#client;
    const late = () => new MeshError('unavailable', `Redis did not subscribe within ${SUBSCRIBE_MS} ms`);
    try {
      await inTime(client.ssubscribe(channel), SUBSCRIBE_MS, late);
    } catch (error) {
      throw redisError(error);
    }
  }

  #connect(): Subscriber['client'] {
    const { client, resumed } = this.#open();
    client.on('smessage', (channel: string) => {
      for (const listener of this.#channels.get(channel)?.listeners ?? []) listener();
    });
    // The first connection has missed nothing, but who is told once too often only asks once too often.
    client.on(resumed, () => {
      for (const { listeners } of this.#channels.values()) for (const listener of listeners) listener();
    });
    // The client for commands meets the same errors, and says so.
    client.on('error', () => undefined);
    client.on('node error', () => undefined);
    client.connect().catch(() => undefined);
    return client;
  }

  #leave(channel: string, listener: () => void): void {
    const listeners = this.#channels.get(channel)?.listeners;
    if (!listeners?.delete(listener) || listeners.size > 0) return;
    this.#channels.delete(channel);
    this.#client?.sunsubscribe(channel).catch(() => undefined);
  }
}
