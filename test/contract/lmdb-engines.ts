import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type InboxStore,
  LmdbInboxStore,
  LmdbMessageLog,
  LmdbStatusStore,
  type MessageLog,
  type StatusStore,
} from '@chatmesh/chat';
import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';
import type { Engine } from './engine.js';
import type { LogEngine } from './message-log-witness.js';

function engine<T extends AsyncDisposable>(
  exported: string,
  make: (environment: LmdbEnvironment, now?: () => number) => T,
) {
  return {
    module: import.meta.url,
    exported,
    async open(location: string, now?: () => number) {
      const environment = LmdbEnvironment.open(location);
      const store = make(environment, now);
      return {
        store,
        async close() {
          await store[Symbol.asyncDispose]();
          await environment[Symbol.asyncDispose]();
        },
      };
    },
    async place() {
      const location = await mkdtemp(join(tmpdir(), 'chatmesh-contract-'));
      return { location, remove: () => rm(location, { recursive: true, force: true }) };
    },
  };
}

export const lmdbMessageLog: LogEngine = {
  ...engine<MessageLog>('lmdbMessageLog', (environment, now = Date.now) =>
    LmdbMessageLog.open(environment, 'log', { now }),
  ),
  tellsNewAtOnce: true,
};
export const lmdbInboxStore: Engine<InboxStore> = engine(
  'lmdbInboxStore',
  (environment) => new LmdbInboxStore(environment),
);
export const lmdbStatusStore: Engine<StatusStore> = engine(
  'lmdbStatusStore',
  (environment) => new LmdbStatusStore(environment),
);
