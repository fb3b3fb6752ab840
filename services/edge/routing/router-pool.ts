import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import {
  addressesOf,
  type Client,
  createClient,
  isName,
  type Logger,
  MeshClock,
  MeshError,
  type MeshTls,
} from '@chatmesh/mesh';
import { rendezvous } from '../domain/rendezvous.js';
import { type RouterClient, type RouterListener, RouterStream } from './router-stream.js';

const RESOLVE_MS = 5_000;
/** Of calls, this share may be tried again elsewhere, and so many at once: more would add to an outage. */
const RETRY_SHARE = 0.1;
const RETRY_BURST = 10;

/** How one router is reached. */
export interface RouterClients {
  readonly stream: RouterClient;
  readonly calls: Client<typeof InternalChatService> & { close(): void };
}

export interface RouterPoolOptions {
  readonly edgeId: string;
  readonly listener: RouterListener;
  readonly logger: Logger;
  readonly tls: MeshTls | undefined;
  /** Reaches a router; over gRPC where it is left out. */
  readonly clientsOf?: ((address: string) => RouterClients) | undefined;
}

interface Router {
  readonly stream: RouterStream;
  readonly client: RouterClients['calls'];
}

/** The routers of a mesh: a stream to each, and calls to any of them. */
export class RouterPool {
  readonly #options: RouterPoolOptions;
  readonly #clientsOf: (address: string) => RouterClients;
  readonly #clock = new MeshClock(Date.now);
  /** Of all configured addresses, those that are to be looked up. */
  readonly #names: readonly string[];
  readonly #fixed: readonly string[];
  readonly #routers = new Map<string, Router>();
  #retries = RETRY_BURST;
  #timer: NodeJS.Timeout | undefined;

  /** @param addresses `host:port`, or `dns:///name:port` for every address of a name, for example of a headless service. */
  constructor(addresses: readonly string[], options: RouterPoolOptions) {
    this.#options = options;
    this.#clientsOf =
      options.clientsOf ??
      ((address) => ({
        stream: createClient(RouterService, { ...options, address }),
        calls: createClient(InternalChatService, { ...options, address }),
      }));
    this.#names = addresses.filter(isName);
    this.#fixed = addresses.filter((address) => !isName(address));
  }

  /** Connects to the routers, and follows what the names stand for. */
  start(): void {
    this.#use(this.#fixed);
    if (this.#names.length === 0) return;
    void this.#resolve();
    this.#timer = setInterval(() => void this.#resolve(), RESOLVE_MS).unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    for (const { stream, client } of this.#routers.values()) {
      stream.close();
      client.close();
    }
  }

  /** True when some router can be reached. */
  get routed(): boolean {
    for (const { stream } of this.#routers.values()) if (stream.connected) return true;
    return false;
  }

  /** How many routers answer, answer and refuse whatever they are asked, and do not answer. */
  get reach(): { readonly connected: number; readonly failing: number; readonly unreachable: number } {
    const reach = { connected: 0, failing: 0, unreachable: 0 };
    for (const { stream } of this.#routers.values()) {
      if (!stream.connected) reach.unreachable++;
      else if (stream.failing) reach.failing++;
      else reach.connected++;
    }
    return reach;
  }

  /** Nothing waits for any router's word. */
  get settled(): boolean {
    for (const { stream } of this.#routers.values()) if (stream.connected && !stream.settled) return false;
    return true;
  }

  /**
   * The router for a user: the same one on every edge, as long as the same routers can be reached. One that leaves, or refuses
   * whatever it is asked, is nobody's as long as there is another one.
   */
  of(userId: string): RouterStream | undefined {
    return this.#pick(userId, undefined)?.stream;
  }

  /**
   * Calls a router on behalf of a user; one that does not answer is made up for by another one.
   *
   * @param call has to be one that may be repeated.
   * @throws MeshError of the last attempt, `unavailable` when no router can be reached.
   */
  async call<T>(userId: string, call: (client: Router['client']) => Promise<T>): Promise<T> {
    const router = this.#pick(userId, undefined);
    if (!router) throw new MeshError('unavailable', 'no router can be reached');
    this.#retries = Math.min(RETRY_BURST, this.#retries + RETRY_SHARE);
    try {
      return await call(router.client);
    } catch (error) {
      const other = error instanceof MeshError && error.kind === 'unavailable' && this.#pick(userId, router);
      if (!other || this.#retries < 1) throw error;
      this.#retries--;
      return await call(other.client);
    }
  }

  #pick(userId: string, except: Router | undefined): Router | undefined {
    let choice: Router[] = [];
    let best = Number.POSITIVE_INFINITY;
    for (const router of this.#routers.values()) {
      if (router === except || !router.stream.connected) continue;
      const last = router.stream.leaving ? 2 : router.stream.failing ? 1 : 0;
      if (last < best) {
        best = last;
        choice = [router];
      } else if (last === best) choice.push(router);
    }
    if (choice.length < 2) return choice[0];
    return rendezvous(userId, choice, ({ stream }) => stream.address);
  }

  async #resolve(): Promise<void> {
    const resolved = await Promise.all(this.#names.map((name) => this.#addressesOf(name)));
    // A name that cannot be resolved says nothing about its routers.
    if (resolved.some((addresses) => addresses === undefined)) return;
    this.#use([...this.#fixed, ...resolved.flatMap((addresses) => addresses ?? [])]);
  }

  async #addressesOf(name: string): Promise<string[] | undefined> {
    try {
      return await addressesOf(name);
    } catch (error) {
      this.#options.logger.warn({ err: error, name }, 'the routers of a name cannot be looked up; keeping those known');
      return undefined;
    }
  }

  /** Has a stream to each of these routers; one that is no longer among them is left when it ends. */
  #use(addresses: readonly string[]): void {
    // First, so that one that has ended and is named again is connected to anew.
    for (const [address, { stream }] of this.#routers) if (stream.retired && !stream.connected) this.#drop(address);
    for (const address of addresses) {
      const known = this.#routers.get(address);
      if (known) {
        known.stream.retired = false;
        continue;
      }
      const { stream: client, calls } = this.#clientsOf(address);
      const stream = new RouterStream({ address, client, clock: this.#clock, ...this.#options });
      this.#routers.set(address, { stream, client: calls });
      stream.connect();
    }
    for (const [address, { stream }] of this.#routers) {
      if (addresses.includes(address)) continue;
      if (!stream.retired)
        this.#options.logger.info({ router: address }, 'a router is named no more; it is left when it ends');
      stream.retired = true;
      if (!stream.connected) this.#drop(address);
    }
  }

  #drop(address: string): void {
    const router = this.#routers.get(address);
    this.#routers.delete(address);
    router?.stream.close();
    router?.client.close();
  }
}
