import type { Attempts, StatusRecord, StatusStore } from '@chatmesh/chat';
import { AttemptsModel, nothingKnown } from '../../contract/attempts-model.js';
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
      get: (ids) => remote.call(() => ids.map((id) => asStored(this.records.get(id)))),
      update: (updates) => remote.call(() => this.records.update(updates)),
      expire: () => Promise.resolve(false),
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
}

/** As LMDB's store hands a record out: its fields are not its own, so that a copy by spreading has none of them. */
function asStored(record: StatusRecord | undefined): StatusRecord | undefined {
  return record && (Object.create(record) as StatusRecord);
}

/** Attempts as Redis keeps them; of an engine that does not answer nothing is known. */
export class SimulatedAttempts {
  readonly #model: AttemptsModel;

  constructor(nowMs: () => number) {
    this.#model = new AttemptsModel(nowMs);
  }

  of(host: Host, temper: Temper): Attempts {
    const remote = new Remote(host, temper);
    return {
      begin: (senderId, atMs, attempts) =>
        remote.call(() => this.#model.begin(host.name, senderId, atMs, attempts)).catch(() => nothingKnown(attempts)),
    };
  }
}
