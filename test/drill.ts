import { expect } from '@jest/globals';
import { type Frame, WireClient } from './client.js';
import { type TestMesh, type TestUser, until } from './mesh.js';

/** A confirmation takes effect within a second. */
const EFFECT_MS = 1_100;

/** What was sent. */
export interface Sent {
  readonly text: string;
  readonly clientId: string;
  readonly serverId: string;
  /** The server had it already. */
  readonly known: boolean;
}

/** One user writes and another one reads, now and then, while a mesh is stopped, restored and started. */
export class Drill {
  readonly #mesh: TestMesh;
  readonly #writer: TestUser;
  readonly #reader: TestUser;

  private constructor(mesh: TestMesh, writer: TestUser, reader: TestUser) {
    this.#mesh = mesh;
    this.#writer = writer;
    this.#reader = reader;
  }

  static async begin(mesh: TestMesh): Promise<Drill> {
    const [writer, reader] = (await mesh.users(2)) as [TestUser, TestUser];
    return new Drill(mesh, writer, reader);
  }

  /** Sends texts in order, each under its old id where it is among `again`; resolves when all are durable. */
  async send(texts: readonly string[], again: readonly Sent[] = []): Promise<Sent[]> {
    const client = await WireClient.connect(this.#mesh.url, this.#writer);
    const ids = texts.map((text) =>
      client.message(this.#reader, text, again.find((sent) => sent.text === text)?.clientId),
    );
    const sent: Sent[] = [];
    for (const [i, clientId] of ids.entries()) {
      const { server_message_id: serverId, deduplicated: known = false } = await client.answer(clientId);
      sent.push({ text: texts[i] as string, clientId, serverId, known });
    }
    await client.close();
    return sent;
  }

  /** Does something while the reader is connected, who sees `count` messages come and confirms none of them. */
  async look<T>(count: number, meanwhile: () => Promise<T>): Promise<T> {
    const client = await WireClient.connect(this.#mesh.url, this.#reader);
    await client.frame((f) => f.caught_up, 'caught_up');
    const done = await meanwhile();
    await until(() => client.messages.length >= count, { what: `${count} messages` });
    return done;
  }

  /** Everything that waits, in the order in which it comes, at least `count` messages; all of it is confirmed, durably. */
  async receive(count: number): Promise<Pick<Sent, 'text' | 'serverId'>[]> {
    const messages = await receiveAll(await WireClient.connect(this.#mesh.url, this.#reader), count);
    return messages.map((m) => ({ text: m.content as string, serverId: m.server_message_id as string }));
  }

  /** Has m1 to m20 confirmed and leaves m21 to m40 waiting. */
  async open(): Promise<{ early: Sent[]; waiting: Sent[] }> {
    const early = await this.send(texts(1, 20));
    expect(await this.receive(20)).toEqual(received(early));
    return { early, waiting: await this.send(texts(21, 40)) };
  }

  /** Sends everything again: all of it is known, and nothing of it comes. */
  async expectKnown(before: readonly Sent[]): Promise<void> {
    const again = await this.send(
      before.map(({ text }) => text),
      before,
    );
    report(
      'sent again by Ada, known',
      again.filter((m) => m.known),
    );
    expect(again).toEqual(before.map((sent) => ({ ...sent, known: true })));
    expect(await this.receive(0)).toEqual([]);
  }
}

/** Everything that waits for a client, at least `count` messages; all of it is confirmed, durably, and the client closed. */
export async function receiveAll(client: WireClient, count = 0): Promise<Frame[]> {
  await client.frame((f) => f.caught_up, 'caught_up');
  await until(() => client.messages.length >= count, { what: `${count} messages` });
  const { messages } = client;
  if (messages.length > 0) client.confirm('delivered', ...messages.map((m) => m.server_message_id as string));
  await new Promise((resolve) => setTimeout(resolve, EFFECT_MS));
  await client.close();
  return messages;
}

/** m`from` to m`to`. */
export function texts(from: number, to: number): string[] {
  return Array.from({ length: to - from + 1 }, (_, i) => `m${from + i}`);
}

/** Prints a line of the kind that docs/operations.md shows. */
export function report(what: string, all: readonly Pick<Sent, 'text'>[], among = texts(1, 99)): void {
  const named = all.map(({ text }) => text).filter((text) => among.includes(text));
  console.log(`${what}: ${named.length === 0 ? 'nothing' : `${named.length} (${named[0]} to ${named.at(-1)})`}`);
}

/** Without what only the sender knows. */
export function received(sent: readonly Sent[]): Pick<Sent, 'text' | 'serverId'>[] {
  return sent.map(({ text, serverId }) => ({ text, serverId }));
}
