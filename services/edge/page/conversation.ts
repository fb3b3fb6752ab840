import { timestampMs } from '@bufbuild/protobuf/wkt';
import { ChatService } from '@chatmesh/gen/chat/v1/chat';
import { type Message, MessageStatus, type Receipt } from '@chatmesh/gen/chat/v1/frames';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-web';
import { fetchOwn } from './answers.js';
import { Confirmations } from './confirmations.js';
import type { Credentials } from './credentials.js';
import { type Delivery, Link, type LinkState } from './link.js';
import { Outbox } from './outbox.js';
import { type Arrival, type Change, type Entry, type Outcome, Store } from './store.js';

const STATUSES = {
  [MessageStatus.UNSPECIFIED]: 'sent',
  [MessageStatus.SENT]: 'sent',
  [MessageStatus.DELIVERED]: 'delivered',
  [MessageStatus.READ]: 'read',
  [MessageStatus.FAILED]: 'failed',
} as const;

/** Who wants to know. */
export interface ConversationEvents {
  linkChanged(state: LinkState): void;
  entriesChanged(change: Change): void;
}

/** One user's session in this tab: what is stored, what is on its way, and the connection. */
export class Conversation {
  readonly #me: string;
  readonly #peer: string;
  readonly #store: Store;
  readonly #link: Link;
  readonly #outbox: Outbox;
  readonly #confirmations: Confirmations;

  private constructor({ token, me, peer }: Credentials, store: Store, events: ConversationEvents) {
    const transport = createConnectTransport({
      baseUrl: location.origin,
      useBinaryFormat: true,
      fetch: fetchOwn,
      interceptors: [
        (next) => (request) => {
          request.header.set('authorization', `Bearer ${token}`);
          return next(request);
        },
      ],
    });
    const client = createClient(ChatService, transport);
    this.#me = me;
    this.#peer = peer;
    this.#store = store;
    this.#link = new Link(
      client,
      (batch) => this.#take(batch),
      (state) => {
        if (state.kind === 'catching-up') this.#connected();
        events.linkChanged(state);
      },
    );
    const signal = this.#link.closed;
    this.#outbox = new Outbox({ client, store, me, up: () => this.#link.up, signal });
    this.#confirmations = new Confirmations(client, (ids) => store.markRead(ids), signal);
  }

  /** Opens what is stored; `connect` begins. Rejects where the browser keeps nothing. */
  static async open(credentials: Credentials, events: ConversationEvents): Promise<Conversation> {
    const store = await Store.open(credentials.me, (change) => {
      events.entriesChanged(change);
      // Another tab's message has to be sent by the tab that is connected.
      if (change.changed.some(({ pending }) => pending)) conversation.#outbox.pump();
    });
    const conversation = new Conversation(credentials, store, events);
    await store.recover();
    return conversation;
  }

  /** Stays connected until closed, replaced or refused. */
  connect(): Promise<void> {
    return this.#link.run();
  }

  /** Does not wait for the next attempt to connect. */
  wake(): void {
    this.#link.wake();
  }

  close(): void {
    this.#link.close();
    this.#store.close();
  }

  /** Stored messages of the conversation that are older than `beforeSeq`, oldest first. */
  history(beforeSeq: number, limit: number): Promise<Entry[]> {
    return this.#store.page(this.#peer, beforeSeq, limit);
  }

  /** Resolves when the message is stored; it is then sent, whatever happens. */
  write(text: string): Promise<void> {
    return this.#store.write(this.#peer, text);
  }

  retry(entry: Entry): Promise<void> {
    return this.#store.retry(entry);
  }

  /** Unread messages by peer. */
  async unread(): Promise<Map<string, number>> {
    const counts = new Map<string, number>();
    for (const { peer } of await this.#store.unread()) counts.set(peer, (counts.get(peer) ?? 0) + 1);
    return counts;
  }

  /** The user sees the conversation: says so for everything in it that is unread. */
  async seen(): Promise<void> {
    if (document.visibilityState !== 'visible') return;
    const unread = await this.#store.unread();
    this.#confirmations.add({ read: serverIds(unread.filter(({ peer }) => peer === this.#peer)) });
  }

  #connected(): void {
    this.#outbox.pump();
    void this.seen();
  }

  /** Stores, then confirms. */
  async #take(batch: Delivery[]): Promise<void> {
    const arrivals: Arrival[] = [];
    const outcomes: Outcome[] = [];
    const events: string[] = [];
    for (const { case: kind, value } of batch) {
      if (kind === 'message') arrivals.push(this.#arrival(value));
      else {
        events.push(value.eventId);
        if (kind === 'receipt') outcomes.push(outcome(value));
      }
    }
    await this.#store.receive(arrivals, outcomes);
    const visible = document.visibilityState === 'visible';
    const seen = ({ mine, peer }: Arrival) => visible && peer === this.#peer && (!mine || peer === this.#me);
    const read = serverIds(arrivals.filter(seen));
    this.#confirmations.add({ read, delivered: serverIds(arrivals.filter((arrival) => !seen(arrival))), events });
  }

  #arrival(message: Message): Arrival {
    const { senderId, receiverId, groupId, payload, timestamp, serverMessageId } = message;
    const mine = senderId === this.#me;
    return {
      peer: groupId || (mine ? receiverId || this.#me : senderId),
      mine,
      text: payload.case === 'content' ? payload.value : 'This message is encrypted; this page cannot open it.',
      atMs: timestamp ? timestampMs(timestamp) : Date.now(),
      serverMessageId,
    };
  }
}

function outcome({ status, serverMessageId, clientMessageId, code }: Receipt): Outcome {
  return { status: STATUSES[status], serverMessageId, clientMessageId, ...(code !== '' && { reason: code }) };
}

function serverIds(entries: readonly { serverMessageId?: string }[]): string[] {
  return entries.flatMap(({ serverMessageId }) => serverMessageId ?? []);
}
