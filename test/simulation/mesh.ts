import type { DirectoryUser } from '@chatmesh/chat';
import { Router } from '@chatmesh/chat/router';
import { internalRpc, routerRpc } from '@chatmesh/chat/rpc';
import type { Session } from '@chatmesh/edge/sessions/session';
import { SessionTable } from '@chatmesh/edge/sessions/session-table';
import type { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { RouteRequestWire, RouteResponseWire } from '@chatmesh/gen/wire/chat/v1/router';
import { type BidiCall, type Client, createLogger, MeshClock, MeshError } from '@chatmesh/mesh';
import { SimulatedInbox } from './engines/inbox.js';
import { SimulatedLog } from './engines/log.js';
import { CALM, Remote, type Temper } from './engines/remote.js';
import { SimulatedAttempts, SimulatedStatuses } from './engines/statuses.js';
import { Network } from './network.js';
import type { Host, World } from './world.js';

const PARTITIONS = 4;
/** Who registers a device tries again after this. */
const REGISTER_MS = 12_000;
/** A presence entry of an edge that has died is there for so long. */
const PRESENCE_TTL_MS = 30_000;
const CODECS = { request: RouteRequestWire, response: RouteResponseWire };
const CONFIG = { sendRate: 0, sendBurst: 1_000, deliveryRetries: 3, deliveryRetryMs: 10_000 };
const KEY = Buffer.alloc(32, 7);

type Calls = Client<typeof InternalChatService>;

/** A router's process; one that has died is started anew under the same address. */
export class RouterNode {
  readonly address: string;
  readonly #mesh: SimulatedMesh;
  #host!: Host;
  #router!: Router;
  #starts = 0;
  #serve: ((call: BidiCall<never, never>) => void) | undefined;
  #calls: Calls | undefined;

  constructor(mesh: SimulatedMesh, address: string) {
    this.#mesh = mesh;
    this.address = address;
    this.start();
  }

  get host(): Host {
    return this.#host;
  }

  get router(): Router {
    return this.#router;
  }

  start(): void {
    const mesh = this.#mesh;
    const host = mesh.world.host(`${this.address}#${++this.#starts}`);
    this.#host = host;
    this.#serve = undefined;
    this.#calls = undefined;
    host.after(1, () => void this.#begin(host));
  }

  async #begin(host: Host): Promise<void> {
    const mesh = this.#mesh;
    const { temper } = mesh;
    const router = new Router({
      config: CONFIG,
      fingerprintKey: KEY,
      stores: {
        log: mesh.log.of(host, temper.log),
        deadLetters: mesh.deadLetters.of(host, temper.log),
        inbox: mesh.inbox.of(host, temper.inbox),
        statuses: mesh.statuses.of(host, temper.statuses),
        attempts: mesh.addresses.length > 1 ? mesh.attempts.of(host, temper.attempts) : undefined,
        sendTokens: undefined,
      },
      directory: {
        resolve: (ids) => new Remote(host, temper.directory).call(() => ids.flatMap((id) => mesh.users.get(id) ?? [])),
      },
      presence: { sessions: (userId) => new Remote(host, temper.directory).call(() => mesh.sessionsOf(userId)) },
      clock: new MeshClock(Date.now),
      now: Date.now,
      logger: mesh.logger,
    });
    this.#router = router;
    await router.owner.start();
    const rpc = router.rpc;
    const { route } = routerRpc(rpc) as unknown as { route: (call: BidiCall<never, never>) => void };
    this.#serve = route;
    this.#calls = internalRpc(rpc) as unknown as Calls;
  }

  /** Opens an edge's stream. */
  stream(client: Host) {
    const listening = this.#serve && this.#host.state !== 'dead' ? this.#host : undefined;
    const serve = this.#serve as (call: BidiCall<never, never>) => void;
    return this.#mesh.network.call(client, listening, CODECS, serve as never);
  }

  /** A call from an edge. */
  call<T>(client: Host, method: (calls: Calls) => Promise<T>): Promise<T> {
    const { network } = this.#mesh;
    const host = this.#host;
    const calls = this.#calls;
    return new Promise((resolve, reject) => {
      const lost = () => reject(new MeshError('unavailable', 'simulated: the router is away'));
      if (!calls || host.state !== 'running') {
        client.after(network.delayMs(), lost);
        return;
      }
      const cancel = client.after(5_000, lost);
      const back = (then: () => void) => {
        client.after(network.delayMs(), () => {
          cancel();
          then();
        });
      };
      host.after(network.delayMs(), () => {
        method(calls).then(
          (result) => back(() => resolve(result)),
          (error) => back(() => reject(error)),
        );
      });
    });
  }
}

/** An edge's process. */
export class EdgeNode {
  readonly name: string;
  readonly #mesh: SimulatedMesh;
  #host!: Host;
  #table!: SessionTable;
  #edgeId = '';
  #starts = 0;

  constructor(mesh: SimulatedMesh, name: string) {
    this.#mesh = mesh;
    this.name = name;
    this.start();
  }

  get host(): Host {
    return this.#host;
  }

  get table(): SessionTable {
    return this.#table;
  }

  get edgeId(): string {
    return this.#edgeId;
  }

  start(): void {
    const mesh = this.#mesh;
    const { world } = mesh;
    const host = world.host(`${this.name}#${++this.#starts}`);
    this.#host = host;
    this.#edgeId = uuidOf(world);
    const edgeId = this.#edgeId;
    const told = (session: Session, there: boolean) => {
      world.after(mesh.network.delayMs(), () =>
        mesh.present(edgeId, session.userId, session.number, session.deviceId, there),
      );
    };
    this.#table = world.at(host, () => {
      const table = new SessionTable({
        edgeId,
        routers: mesh.addresses,
        logger: mesh.logger,
        now: Date.now,
        checkToken: () => Promise.reject(new MeshError('unauthenticated', 'no tokens here')),
        observer: { opened: (session) => told(session, true), closed: (session) => told(session, false) },
        clientsOf: (address) => {
          const node = mesh.router(address);
          const close = () => {};
          const calls = {
            confirm: (request: Parameters<Calls['confirm']>[0]) => node.call(host, (c) => c.confirm(request)),
            announceDevices: (request: Parameters<Calls['announceDevices']>[0]) =>
              node.call(host, (c) => c.announceDevices(request)),
            close,
          };
          return { stream: { route: () => node.stream(host), close } as never, calls: calls as never };
        },
      });
      table.start();
      return table;
    });
  }
}

export interface MeshSize {
  readonly routers: number;
  readonly edges: number;
}

/** Routers and edges on engines in memory, in one world. */
export class SimulatedMesh {
  readonly world: World;
  readonly network: Network;
  readonly log: SimulatedLog;
  readonly deadLetters: SimulatedLog;
  readonly inbox = new SimulatedInbox();
  readonly statuses = new SimulatedStatuses();
  readonly attempts: SimulatedAttempts;
  readonly users = new Map<string, DirectoryUser>();
  readonly logger = createLogger({ name: 'simulation', level: process.env.SIMULATION_LOG ?? 'silent' });
  readonly temper = {
    log: { ...CALM },
    inbox: { ...CALM },
    statuses: { ...CALM },
    attempts: { ...CALM },
    directory: { ...CALM },
  } satisfies Record<string, Temper>;
  readonly routers: RouterNode[];
  readonly edges: EdgeNode[];
  readonly addresses: readonly string[];
  /** By edge, then by session. */
  readonly #presence = new Map<string, Map<number, { userId: string; deviceId: string }>>();

  constructor(world: World, size: MeshSize) {
    this.world = world;
    this.network = new Network(world);
    this.attempts = new SimulatedAttempts(() => world.nowMs);
    this.log = new SimulatedLog(world, PARTITIONS);
    this.deadLetters = new SimulatedLog(world, 1);
    this.addresses = Array.from({ length: size.routers }, (_, i) => `router-${i}`);
    this.routers = this.addresses.map((address) => new RouterNode(this, address));
    this.edges = Array.from({ length: size.edges }, (_, i) => new EdgeNode(this, `edge-${i}`));
  }

  router(address: string): RouterNode {
    return this.routers.find((node) => node.address === address) as RouterNode;
  }

  addUser(userId: string, deviceIds: readonly string[]): void {
    this.users.set(userId, { userId, deviceIds, blockedUserIds: new Set(), readReceipts: true, suspended: false });
  }

  /** Registers a device and announces it, as an edge does that admits it; `done` is told once when both have happened. */
  register(userId: string, deviceId: string, done: () => void): void {
    const { host, table } = this.world.random.among(this.edges);
    const user = this.users.get(userId);
    if (user && !user.deviceIds.includes(deviceId))
      this.users.set(userId, { ...user, deviceIds: [...user.deviceIds, deviceId] });
    let over = false;
    const ends = (then: () => void) => () => {
      if (!over) this.world.after(0, then);
      over = true;
    };
    const again = ends(() => this.register(userId, deviceId, done));
    host.after(0, () => {
      table.routers
        .call(userId, (router) => router.announceDevices({ devices: [{ userId, deviceId }] }))
        .then(ends(done), () => void this.world.after(500, again));
    });
    // The edge may die meanwhile.
    this.world.after(REGISTER_MS, again);
  }

  kill(node: RouterNode | EdgeNode): void {
    node.host.kill();
    this.network.lost(node.host);
    if (!(node instanceof EdgeNode)) return;
    const { edgeId } = node;
    this.world.after(PRESENCE_TTL_MS, () => this.#presence.delete(edgeId));
  }

  stop(node: RouterNode | EdgeNode): void {
    node.host.stop();
    this.network.lost(node.host);
  }

  present(edgeId: string, userId: string, session: number, deviceId: string, there: boolean): void {
    const sessions = this.#presence.get(edgeId) ?? new Map<number, { userId: string; deviceId: string }>();
    this.#presence.set(edgeId, sessions);
    if (there) sessions.set(session, { userId, deviceId });
    else sessions.delete(session);
  }

  sessionsOf(userId: string) {
    return [...this.#presence].flatMap(([edgeId, sessions]) =>
      [...sessions]
        .filter(([, s]) => s.userId === userId)
        .map(([session, { deviceId }]) => ({ edgeId, session, deviceId })),
    );
  }
}

/** A UUID of the world's chance. */
export function uuidOf(world: World): string {
  const digits = Array.from({ length: 32 }, () => world.random.below(16).toString(16));
  digits[12] = '4';
  digits[16] = '8';
  const text = digits.join('');
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${text.slice(20)}`;
}
