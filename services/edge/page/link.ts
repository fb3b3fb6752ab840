import type { ChatService } from '@chatmesh/gen/chat/v1/chat';
import type { ServerFrame } from '@chatmesh/gen/chat/v1/frames';
import { type Client, Code, ConnectError } from '@connectrpc/connect';
import { backoffMs, pause } from './backoff.js';

/** Where the connection stands. `replaced` and `refused` are final: only the user can go on from there. */
export type LinkState =
  | { readonly kind: 'connecting' }
  /** What waited for this device is being transmitted. */
  | { readonly kind: 'catching-up' }
  | { readonly kind: 'online' }
  | { readonly kind: 'waiting'; readonly reason: string }
  /** A newer connection of the same device took over. */
  | { readonly kind: 'replaced' }
  /** The token is no longer valid. */
  | { readonly kind: 'refused'; readonly reason: string };

/** Frames that have to be stored, then confirmed. */
export type Delivery = Extract<ServerFrame['frame'], { case: 'message' | 'receipt' | 'event' }>;

/** The server sends a heartbeat every 25 s: after this long without a frame there is no server. */
const SILENT_MS = 60_000;
/** A connection that lived this long was a good one: the next backoff starts from the beginning. */
const STABLE_MS = 5_000;

/** Keeps one `Receive` stream alive until it is closed, replaced or refused. */
export class Link {
  readonly #client: Client<typeof ChatService>;
  readonly #deliver: (batch: Delivery[]) => Promise<void>;
  readonly #changed: (state: LinkState) => void;
  readonly #closing = new AbortController();
  #state: LinkState = { kind: 'connecting' };
  #wake: AbortController | undefined;

  /** `deliver` resolves when a batch is stored; while it works the next one gathers. */
  constructor(
    client: Client<typeof ChatService>,
    deliver: (batch: Delivery[]) => Promise<void>,
    changed: (state: LinkState) => void,
  ) {
    this.#client = client;
    this.#deliver = deliver;
    this.#changed = changed;
  }

  /** True while the server can be reached over this connection. */
  get up(): boolean {
    return this.#state.kind === 'online' || this.#state.kind === 'catching-up';
  }

  /** Fires when the link is closed. */
  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  /** Connects, and again whenever the connection is lost. Resolves when it will not do so any more. */
  async run(): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      this.#become({ kind: 'connecting' });
      const startedMs = performance.now();
      const { error, goingAwayMs } = await this.#receive();
      if (this.closed.aborted) return;
      if (error.code === Code.Aborted) return this.#become({ kind: 'replaced' });
      if (error.code === Code.Unauthenticated || error.code === Code.PermissionDenied) {
        return this.#become({ kind: 'refused', reason: error.rawMessage });
      }
      if (performance.now() - startedMs > STABLE_MS) attempt = 0;
      this.#become({ kind: 'waiting', reason: error.rawMessage });
      this.#wake = new AbortController();
      const wakes = goingAwayMs === undefined ? [this.closed, this.#wake.signal] : [this.closed];
      await pause(goingAwayMs ?? backoffMs(attempt), AbortSignal.any(wakes));
      if (this.closed.aborted) return;
    }
  }

  /** Ends a wait for the next attempt, unless the server has chosen its length: there is reason to believe in success. */
  wake(): void {
    this.#wake?.abort();
  }

  close(): void {
    this.#closing.abort();
  }

  /** One stream from its opening to its end. */
  async #receive(): Promise<{ error: ConnectError; goingAwayMs: number | undefined }> {
    const ending = new AbortController();
    const giveUp = (reason: string): void => ending.abort(new ConnectError(reason, Code.Unavailable));
    const signal = AbortSignal.any([this.closed, ending.signal]);
    let silence = setTimeout(giveUp, SILENT_MS, 'the server is silent');
    let goingAwayMs: number | undefined;
    // Bounded by the server, which has at most 256 unconfirmed in flight.
    let gathered: Delivery[] = [];
    let storing: Promise<void> | undefined;
    const store = async (): Promise<void> => {
      while (gathered.length > 0 && !ending.signal.aborted) {
        const batch = gathered;
        gathered = [];
        await this.#deliver(batch);
      }
    };
    try {
      for await (const { frame } of this.#client.receive({}, { signal })) {
        clearTimeout(silence);
        silence = setTimeout(giveUp, SILENT_MS, 'the server is silent');
        if (this.#state.kind === 'connecting') this.#become({ kind: 'catching-up' });
        switch (frame?.frame.case) {
          case 'message':
          case 'receipt':
          case 'event':
            gathered.push(frame.frame);
            storing ??= store()
              .catch((error) => giveUp(`this browser cannot keep messages: ${describe(error)}`))
              .finally(() => {
                storing = undefined;
              });
            break;
          case 'caughtUp':
            this.#become({ kind: 'online' });
            break;
          case 'goingAway':
            goingAwayMs = frame.frame.value.reconnectAfterMs;
            break;
        }
      }
      return { error: new ConnectError('the server has closed the connection', Code.Unavailable), goingAwayMs };
    } catch (error) {
      return { error: ConnectError.from(ending.signal.reason ?? error), goingAwayMs };
    } finally {
      clearTimeout(silence);
      ending.abort();
      await storing;
    }
  }

  #become(state: LinkState): void {
    if (this.closed.aborted) return;
    this.#state = state;
    this.#changed(state);
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
