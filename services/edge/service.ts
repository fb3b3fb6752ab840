import { randomUUID } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { MessageStatus, ReceiptUpdateSchema } from '@chatmesh/gen/chat/v1/frames';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { type Client, createClient, type Service, type ServiceDeps } from '@chatmesh/mesh';
import { Admission } from './auth/admission.js';
import { TokenVerifier } from './auth/token-verifier.js';
import type { EdgeConfig } from './config.js';
import { Listeners } from './http/listeners.js';
import { WebSocketEndpoint } from './http/websocket.js';
import { PresenceReporter } from './routing/presence-reporter.js';
import { SessionTable } from './sessions/session-table.js';

/** What a test may replace. */
export interface EdgeOverrides {
  readonly now: () => number;
}

/** Where clients connect: holds sockets and no truth. */
export class EdgeService implements Service {
  readonly name = 'edge';
  readonly sessions: SessionTable;
  readonly #listeners: Listeners;
  readonly #admission: Admission;
  readonly #chat: Client<typeof InternalChatService> & { close(): void };
  readonly #presence: PresenceReporter;
  #disposed: Promise<void> | undefined;

  private constructor(config: EdgeConfig, deps: ServiceDeps, overrides: Partial<EdgeOverrides>) {
    const { logger, metrics, tls } = deps;
    const now = overrides.now ?? Date.now;
    const edgeId = randomUUID();
    const chatAddress = config.routers[0] as string;
    const verifier = new TokenVerifier({ config: config.auth, userAddress: config.userAddress, logger, tls, now });
    this.#admission = new Admission({
      verifier,
      userAddress: config.userAddress,
      chatAddress,
      maxConnectionsPerUser: config.maxConnectionsPerUser,
      logger,
      tls,
    });
    this.#chat = createClient(InternalChatService, { address: chatAddress, logger, tls });
    this.#presence = new PresenceReporter({
      address: config.presenceAddress,
      edgeId,
      all: () => this.sessions.all(),
      logger,
      tls,
    });
    this.sessions = new SessionTable({
      edgeId,
      routers: config.routers,
      logger,
      tls,
      now,
      checkToken: (token) => this.#admission.admit(token),
      confirmElsewhere: async (userId, deviceId, status, ids) => {
        const confirmsEvents = status === MessageStatus.UNSPECIFIED;
        await this.#chat.confirm({
          userId,
          deviceId,
          eventIds: confirmsEvents ? ids : [],
          receipts: confirmsEvents ? [] : [create(ReceiptUpdateSchema, { status, serverMessageIds: ids })],
        });
      },
      observer: this.#presence,
    });
    const websocket = new WebSocketEndpoint({ admission: this.#admission, sessions: this.sessions, now, logger });
    this.#listeners = new Listeners(config, {
      admission: this.#admission,
      verifier,
      sessions: this.sessions,
      chat: this.#chat,
      now,
      websocket,
    });
    metrics.gauge({ name: 'chatmesh_sessions', help: 'Open connections on this edge.' }, () => this.sessions.size);
  }

  static async create(
    config: EdgeConfig,
    deps: ServiceDeps,
    overrides: Partial<EdgeOverrides> = {},
  ): Promise<EdgeService> {
    return new EdgeService(config, deps, overrides);
  }

  get port(): number {
    return this.#listeners.port;
  }

  get h2Port(): number {
    return this.#listeners.h2Port;
  }

  /** True while clients can be served. */
  get ready(): boolean {
    return this.sessions.routed && !this.sessions.draining;
  }

  async start(): Promise<void> {
    this.sessions.start();
    this.#presence.start();
    await this.#listeners.listen();
  }

  async drain(deadlineMs: number): Promise<void> {
    await this.sessions.drain(deadlineMs);
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  async #dispose(): Promise<void> {
    await this.#listeners.close();
    await this.#presence.stop();
    this.sessions.stop();
    this.#admission.close();
    this.#chat.close();
  }
}
