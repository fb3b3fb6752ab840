import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ChatOverrides, ChatService, readConfig as chatConfig } from '@chatmesh/chat';
import { type EdgeOverrides, EdgeService, readConfig as edgeConfig } from '@chatmesh/edge';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, createLogger, EnvReader, Metrics } from '@chatmesh/mesh';
import { type PresenceOverrides, PresenceService } from '@chatmesh/presence';
import { PgliteEngine, SqlUserStore, UserService, type UserStore } from '@chatmesh/user';
import { freePorts } from '#engines';
import { type TestUser, until } from './mesh.js';

const logger = createLogger({ name: 'test', level: 'silent' });

/** A mesh within the test's process, for rules that need another clock, another store, or a hand on the users. */
export class LocalMesh implements AsyncDisposable {
  readonly store: UserStore;
  readonly chat: ChatService;
  readonly edge: EdgeService;
  readonly userAddress: string;
  readonly chatAddress: string;
  readonly presenceAddress: string;
  readonly #closing: (() => unknown)[];
  #nextNumber = 15_550_000_000;

  private constructor(
    parts: Record<'userAddress' | 'chatAddress' | 'presenceAddress', string> & {
      store: UserStore;
      chat: ChatService;
      edge: EdgeService;
    },
    closing: (() => unknown)[],
  ) {
    this.store = parts.store;
    this.chat = parts.chat;
    this.edge = parts.edge;
    this.userAddress = parts.userAddress;
    this.chatAddress = parts.chatAddress;
    this.presenceAddress = parts.presenceAddress;
    this.#closing = closing;
  }

  static async start(
    options: {
      env?: Record<string, string>;
      /** Stays when the mesh ends; one of its own otherwise, that goes. */
      dataDir?: string;
      chat?: Partial<ChatOverrides> | ((dataDir: string) => Partial<ChatOverrides>);
      edge?: Partial<EdgeOverrides>;
      presence?: Partial<PresenceOverrides>;
    } = {},
  ): Promise<LocalMesh> {
    const closing: (() => unknown)[] = [];
    const dataDir = options.dataDir ?? mkdtempSync(join(tmpdir(), 'chatmesh-local-'));
    if (options.dataDir === undefined) closing.push(() => rmSync(dataDir, { recursive: true, force: true }));
    const host = '127.0.0.1';
    const names = ['EDGE_PORT', 'EDGE_H2_PORT', 'CHAT_PORT', 'USER_PORT', 'PRESENCE_PORT'];
    const ports = await freePorts(names.length);
    const env = new EnvReader({
      DATA_DIR: dataDir,
      SEND_RATE: '0',
      EDGE_HOST: host,
      ...Object.fromEntries(names.map((name, i) => [name, String(ports[i])])),
      ...options.env,
    });
    const deps = () => ({ logger, metrics: new Metrics({ processMetrics: false }) });
    const port = (name: string) => ports[names.indexOf(name)] as number;

    const store = await SqlUserStore.open(await PgliteEngine.open(join(dataDir, 'database'), logger));
    const user = await UserService.create({ host, port: port('USER_PORT'), dataDir }, deps(), { store });
    closing.push(() => user[Symbol.asyncDispose]());
    await user.start();
    const presence = await PresenceService.create({ host, port: port('PRESENCE_PORT') }, deps(), options.presence);
    closing.push(() => presence[Symbol.asyncDispose]());
    await presence.start();
    const overrides = typeof options.chat === 'function' ? options.chat(dataDir) : options.chat;
    const chat = await ChatService.create(chatConfig(env), deps(), overrides);
    closing.push(() => chat[Symbol.asyncDispose]());
    await chat.start();
    const edge = await EdgeService.create(edgeConfig(env), deps(), options.edge);
    closing.push(() => edge[Symbol.asyncDispose]());
    await edge.start();
    await until(() => edge.ready, { what: 'the router' });
    const address = (name: string) => `${host}:${port(name)}`;
    const addresses = {
      userAddress: address('USER_PORT'),
      chatAddress: address('CHAT_PORT'),
      presenceAddress: address('PRESENCE_PORT'),
    };
    return new LocalMesh({ store, chat, edge, ...addresses }, closing);
  }

  get url(): string {
    return `ws://127.0.0.1:${this.edge.port}/connect`;
  }

  /** Creates users with a device and a token each. */
  async users(count: number): Promise<TestUser[]> {
    const client = createClient(DirectoryService, { address: this.userAddress, logger });
    try {
      const contactNumber = `+${this.#nextNumber}`;
      this.#nextNumber += count;
      return (await client.createUsers({ contactNumber, name: 'Test', count })).users;
    } finally {
      client.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const close of this.#closing.reverse()) await close();
  }
}
