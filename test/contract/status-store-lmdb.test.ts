import { lmdbStatusStore } from './lmdb-engines.js';
import { statusStoreContract } from './status-store.js';

statusStoreContract('LMDB', lmdbStatusStore);
