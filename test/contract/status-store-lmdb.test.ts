import { lmdbStatusStore } from './lmdb-engines.js';
import { statusStoreContract } from './status-store.js';
import { statusStoreHistoryContract } from './status-store-history.js';

statusStoreContract('LMDB', lmdbStatusStore);
statusStoreHistoryContract('LMDB', lmdbStatusStore);
