import { type Logger, type MeshClock, monotonicMs, type Traces, type WallClock } from '@chatmesh/mesh';
import type { ChatConfig } from './config.js';
import { AcceptLimit } from './domain/accept-limit.js';
import { Fingerprinter } from './domain/fingerprint.js';
import { TokenBuckets } from './domain/token-bucket.js';
import type { Stores } from './engines.js';
import { CachedDirectory, type DirectoryClient } from './routing/directory.js';
import { Ingress } from './routing/ingress.js';
import { OWNER_DEFAULTS, Owner, type OwnerOptions, type SessionFinder } from './routing/owner.js';
import { Sweeper } from './routing/sweeper.js';

export interface RouterDeps {
  readonly config: Pick<ChatConfig, 'sendRate' | 'sendBurst' | 'deliveryRetries' | 'deliveryRetryMs'>;
  readonly fingerprintKey: Buffer;
  readonly stores: Stores;
  readonly directory: DirectoryClient;
  /** How long the router goes by what it knows of a user. */
  readonly directoryMaxAgeMs?: number | undefined;
  readonly presence: SessionFinder;
  /** The time at which messages are accepted. */
  readonly clock: MeshClock;
  /** The machine's clock. */
  readonly now: WallClock;
  readonly logger: Logger;
  readonly traces?: Traces | undefined;
  readonly options?: Partial<OwnerOptions> | undefined;
}

/** What a router is made of, on top of stores that are open: everything but its server. */
export class Router {
  readonly clock: MeshClock;
  readonly stores: Stores;
  readonly directory: CachedDirectory;
  readonly rates: TokenBuckets;
  readonly ingress: Ingress;
  readonly owner: Owner;
  readonly sweeper: Sweeper;

  constructor({ config, fingerprintKey, stores, clock, now, logger, traces, presence, ...deps }: RouterDeps) {
    const { log, statuses, attempts, inbox } = stores;
    const { sendRate, sendBurst, deliveryRetries, deliveryRetryMs } = config;
    this.clock = clock;
    this.stores = stores;
    const directory = new CachedDirectory(deps.directory, monotonicMs, deps.directoryMaxAgeMs);
    this.directory = directory;
    this.rates = new TokenBuckets({ rate: sendRate, burst: sendBurst }, stores.sendTokens);
    this.ingress = new Ingress({
      log,
      statuses,
      attempts,
      directory,
      fingerprints: new Fingerprinter(fingerprintKey),
      rates: this.rates,
      clock,
      limit: new AcceptLimit(() => this.owner.lagMs, monotonicMs),
      traces,
    });
    const options = { ...OWNER_DEFAULTS, deliveryRetries, deliveryRetryMs, ...deps.options };
    this.owner = new Owner({ ...stores, directory, presence, now: () => clock.now(), logger, traces, options });
    this.sweeper = new Sweeper({ owner: this.owner, inbox, statuses, now, logger });
  }

  /** What the handlers of its calls work with. */
  get rpc() {
    const { clock, ingress, owner, directory } = this;
    const { log, inbox, statuses, attempts } = this.stores;
    return { clock, ingress, owner, directory, log, inbox, statuses, attempts };
  }
}
