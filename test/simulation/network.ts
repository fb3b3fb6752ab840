import { type BidiCall, MeshError } from '@chatmesh/mesh';
import { type Host, Way, type World } from './world.js';

/** The longest that a frame takes, milliseconds. */
const SLOWEST_MS = 5;
/** A peer that says nothing for so long is given up: as grpc-js' keepalive does, a little more or less. */
const KEEPALIVE_MS = 5_000;
const KEEPALIVE_SPREAD_MS = 2_500;

/** How messages look on the wire: nothing is shared between two processes. */
export interface Codec<M> {
  encode(message: M): Uint8Array;
  decode(bytes: Uint8Array): M;
}

/** The network between the processes of a mesh, that delays, cuts and forgets. */
export class Network {
  readonly #world: World;
  readonly #calls = new Set<Call>();
  /** Between which two processes nothing arrives, and until when. */
  readonly #stalls = new Map<string, number>();

  constructor(world: World) {
    this.#world = world;
  }

  /** Opens a call; `serve` is told of it at the server. A server that is dead refuses. */
  call<Request, Response>(
    client: Host,
    server: Host | undefined,
    codecs: { request: Codec<Request>; response: Codec<Response> },
    serve: (call: BidiCall<Request, Response>) => void,
  ): BidiCall<Response, Request> {
    const call = new Call(this, client, server ?? client);
    const near = new End<Response, Request>(call, client, codecs.response, codecs.request);
    const far = new End<Request, Response>(call, server ?? client, codecs.request, codecs.response);
    near.peer = far;
    far.peer = near;
    call.ends = [near, far];
    if (!server || server.state === 'dead') {
      client.after(this.delayMs(), () => near.finish(new MeshError('unavailable', 'simulated: nobody listens')));
      return near;
    }
    this.#calls.add(call);
    far.arrive(() => serve(far));
    return near;
  }

  /** Nothing passes between two processes for a while; what is on its way comes later, unless one of them gives up. */
  stall(a: Host, b: Host, forMs: number): void {
    this.#stalls.set(keyOf(a, b), this.#world.nowMs + forMs);
    for (const call of this.#calls)
      if (keyOf(call.client, call.server) === keyOf(a, b)) this.#giveUpLater(call, this.#world.nowMs + forMs);
  }

  /** Breaks every call between two processes, as a lost connection does. */
  cut(a: Host, b: Host): void {
    for (const call of [...this.#calls]) if (keyOf(call.client, call.server) === keyOf(a, b)) call.break();
  }

  /** A process has died or stands still: its peers hear of the one at once and find out about the other. */
  lost(host: Host): void {
    for (const call of [...this.#calls]) {
      if (call.client !== host && call.server !== host) continue;
      if (host.state === 'dead') call.break();
      else this.#giveUpLater(call, Number.POSITIVE_INFINITY);
    }
  }

  /** When something sent now arrives at the earliest. */
  arrivalMs(a: Host, b: Host): number {
    return Math.max(this.#stalls.get(keyOf(a, b)) ?? 0, this.#world.nowMs) + this.delayMs();
  }

  delayMs(): number {
    return this.#world.random.fraction() * SLOWEST_MS;
  }

  forget(call: Call): void {
    this.#calls.delete(call);
  }

  #giveUpLater(call: Call, untilMs: number): void {
    for (const end of call.ends) {
      const afterMs = KEEPALIVE_MS + this.#world.random.fraction() * KEEPALIVE_SPREAD_MS;
      if (this.#world.nowMs + afterMs >= untilMs) continue;
      end.host.after(afterMs, () => {
        if (end.peer.host.state !== 'running' || untilMs < Number.POSITIVE_INFINITY)
          end.finish(new MeshError('unavailable', 'simulated: no keepalive'));
      });
    }
  }
}

/** What a call needs of either of its ends. */
interface Side {
  readonly host: Host;
  readonly peer: Side;
  arrive(then: () => void): void;
  finish(error: MeshError | undefined): void;
}

class Call {
  readonly network: Network;
  readonly client: Host;
  readonly server: Host;
  ends: readonly Side[] = [];

  constructor(network: Network, client: Host, server: Host) {
    this.network = network;
    this.client = client;
    this.server = server;
  }

  /** The connection is gone; what has been sent before may still arrive. */
  break(): void {
    for (const end of this.ends)
      end.arrive(() => end.finish(new MeshError('unavailable', 'simulated: connection lost')));
  }
}

/** One side of a call. */
class End<In, Out> implements BidiCall<In, Out> {
  readonly host: Host;
  peer!: End<Out, In>;
  readonly #call: Call;
  readonly #incoming: Codec<In>;
  readonly #outgoing: Codec<Out>;
  #onMessage: ((message: In) => void) | undefined;
  #onClose: ((error?: MeshError) => void) | undefined;
  #early: Uint8Array[] = [];
  readonly #way: Way;
  #ended = false;
  #finished: { error: MeshError | undefined } | undefined;

  constructor(call: Call, host: Host, incoming: Codec<In>, outgoing: Codec<Out>) {
    this.#call = call;
    this.host = host;
    this.#way = new Way(host.world, host);
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  get closed(): boolean {
    return this.#ended || this.#finished !== undefined;
  }

  onMessage(handler: (message: In) => void): void {
    this.#onMessage = handler;
    for (const bytes of this.#early.splice(0)) this.host.after(0, () => this.#receive(bytes));
  }

  onClose(handler: (error?: MeshError) => void): void {
    this.#onClose = handler;
    const { error } = this.#finished ?? {};
    if (this.#finished) this.host.after(0, () => handler(error));
  }

  onDrain(): void {}

  pause(): void {}

  resume(): void {}

  write(message: Out): boolean {
    if (this.closed) return true;
    const bytes = this.#outgoing.encode(message);
    this.peer.arrive(() => this.peer.#receive(bytes));
    return true;
  }

  end(error?: MeshError): void {
    if (this.closed) return;
    this.#ended = true;
    this.peer.arrive(() => this.peer.finish(error));
    // What is cancelled ends here at once.
    if (error) this.host.after(0, () => this.finish(error));
    else this.arrive(() => this.finish(error));
  }

  /** Has something happen at this end, behind what is on its way to it. */
  arrive(then: () => void): void {
    this.#way.send(this.#call.network.arrivalMs(this.peer.host, this.host), then);
  }

  /** Nothing comes any more. */
  finish(error: MeshError | undefined): void {
    if (this.#finished) return;
    this.#finished = { error };
    this.#call.network.forget(this.#call);
    this.#onClose?.(error);
    // Where only this side has given up, the other one hears of it when it can.
    if (!this.peer.#finished) this.peer.arrive(() => this.peer.finish(error));
  }

  #receive(bytes: Uint8Array): void {
    if (this.#finished) return;
    if (this.#onMessage) this.#onMessage(this.#incoming.decode(bytes));
    else this.#early.push(bytes);
  }
}

function keyOf(a: Host, b: Host): string {
  return a.name < b.name ? `${a.name}|${b.name}` : `${b.name}|${a.name}`;
}
