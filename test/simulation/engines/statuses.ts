import type { Claim, Claims, StatusStore } from '@chatmesh/chat';
import { StatusModel } from '../../contract/status-store-model.js';
import type { Host } from '../world.js';
import { Remote, type Temper } from './remote.js';

/** Status records in memory, shared by all routers of a world. */
export class SimulatedStatuses {
  readonly records = new StatusModel();

  /** The store as one process reaches it. */
  of(host: Host, temper: Temper): StatusStore {
    const remote = new Remote(host, temper);
    return {
      accept: (records) => remote.call(() => this.records.accept(records)),
      get: (ids) => remote.call(() => ids.map((id) => this.records.get(id))),
      update: (updates) => remote.call(() => this.records.update(updates)),
      expire: () => Promise.resolve(false),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
}

/** Claims as Redis keeps them; an engine that does not answer lets the router's own count. */
export class SimulatedClaims {
  readonly #claims = new Map<string, Claim>();

  of(host: Host, temper: Temper): Claims {
    const remote = new Remote(host, temper);
    return {
      claim: (id, claim) =>
        remote
          .call(() => {
            const known = this.#claims.get(id);
            if (!known) this.#claims.set(id, claim);
            return known ?? claim;
          })
          .catch(() => claim),
    };
  }
}
