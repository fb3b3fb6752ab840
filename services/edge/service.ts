import { randomUUID } from 'node:crypto';
import type { Service, ServiceDeps, WallClock } from '@chatmesh/mesh';
import { Admission } from './auth/admission.js';
import { TokenVerifier } from './auth/token-verifier.js';
import type { EdgeConfig } from './config.js';
import { Listeners } from './http/listeners.js';
import { PATIENCE, type Patience } from './http/patience.js';
import { WebSocketEndpoint } from './http/websocket.js';
import { exposeEdge, rpcMetrics } from './metrics.js';
import { PresenceReporter } from './routing/presence-reporter.js';
import { SessionTable } from './sessions/session-table.js';

/** What a test may replace. */
export interface EdgeOverrides {
  readonly now: WallClock;
  /** How often the sets of keys of token issuers are fetched. */
  readonly keyRefreshMs: number;
  /** How often the sessions' wheel turns: pings, silence, expired tokens. */
  readonly turnMs: number;
  readonly patience: Partial<Patience>;
}

/** Where clients connect: holds sockets and no truth. */
export class EdgeService implements Service {
  readonly name = 'edge';
  readonly sessions: SessionTable;
  readonly #listeners: Listeners;
  readonly #admission: Admission;
  readonly #presence: PresenceReporter;
  #disposed: Promise<void> | undefined;

  private constructor(config: EdgeConfig, deps: ServiceDeps, overrides: Partial<EdgeOverrides>) {
    const { logger, metrics, tls, traces } = deps;
    const now = overrides.now ?? Date.now;
    const edgeId = randomUUID();
    const verifier = new TokenVerifier({
      config: config.auth,
      userAddress: config.userAddress,
      logger,
      tls,
      now,
      onWithdrawn: () => this.sessions.closeWithdrawn(),
      keyRefreshMs: overrides.keyRefreshMs,
    });
    this.#admission = new Admission({
      verifier,
      userAddress: config.userAddress,
      presenceAddress: config.presenceAddress,
      edgeId,
      routers: () => this.sessions.routers,
      maxConnectionsPerUser: config.maxConnectionsPerUser,
      logger,
      tls,
    });
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
      traces,
      now,
      turnMs: overrides.turnMs,
      checkToken: (token) => this.#admission.admit(token),
      observer: this.#presence,
    });
    const websocket = new WebSocketEndpoint({ admission: this.#admission, sessions: this.sessions, logger });
    this.#listeners = new Listeners(config, {
      admission: this.#admission,
      verifier,
      sessions: this.sessions,
      websocket,
      metrics: rpcMetrics(metrics),
      patience: { ...PATIENCE, ...overrides.patience },
      ready: () => this.ready,
      logger,
    });
    exposeEdge(metrics, { sessions: this.sessions, websocket, listeners: this.#listeners });
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
    const closed = this.#listeners.close();
    // The listeners do not know the WebSockets that came through them, and wait until these have ended, too.
    this.sessions.stop();
    await closed;
    await this.#presence.stop();
    this.#admission.close();
  }
}
