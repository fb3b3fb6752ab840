import type { CreatedUser } from '@chatmesh/gen/user/v1/directory';
import { type Chat, connect, type Message } from '@chatmesh/sdk';
import type { History } from '@chatmesh/sdk/testing';

/** One of the two who talk: a user with one device, connected or not. */
export class Person {
  readonly userId: string;
  /** What arrived, in order of arrival. */
  readonly received: Message[] = [];
  readonly #has = new Set<string>();
  /** server_message_id to the furthest status that was heard. */
  readonly #heard = new Map<string, string>();
  readonly #onTrace: ReturnType<ReturnType<History['device']>['tap']>;
  #chat: Chat | undefined;
  /** Called whenever something arrives. */
  onChange: () => void = () => undefined;

  constructor(
    readonly name: string,
    private readonly user: CreatedUser,
    private readonly url: string,
    history: History,
  ) {
    this.userId = user.userId;
    this.#onTrace = history.device(user.userId, user.deviceId).tap();
  }

  get chat(): Chat {
    if (this.#chat === undefined) throw new Error(`${this.name} is offline`);
    return this.#chat;
  }

  /** Resolves when everything that waited has arrived. */
  async comeOnline(): Promise<void> {
    const chat = await connect({ url: this.url, token: this.user.token, onTrace: this.#onTrace });
    this.#chat = chat;
    chat.on('message', (message) => {
      this.received.push(message);
      this.#has.add(message.serverMessageId);
      this.onChange();
    });
    chat.on('receipt', ({ serverMessageId, status }) => {
      this.#heard.set(serverMessageId, status);
      this.onChange();
    });
    await new Promise<void>((resolve, reject) => {
      chat.on('caught_up', () => resolve());
      chat.on('status', ({ state }) => state === 'closed' && reject(new Error(`${this.name} lost the connection`)));
    });
  }

  async goOffline(): Promise<void> {
    await this.#chat?.close();
    this.#chat = undefined;
  }

  has(serverMessageId: string): boolean {
    return this.#has.has(serverMessageId);
  }

  heardRead(serverMessageId: string): boolean {
    return this.#heard.get(serverMessageId) === 'read';
  }
}
