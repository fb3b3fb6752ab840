import { lmdbStatusStore } from './lmdb-engines.js';
import { statusStoreContract, statusStoreExpiryContract } from './status-store.js';
import { statusStoreHistoryContract } from './status-store-history.js';

statusStoreContract('LMDB', lmdbStatusStore);
statusStoreExpiryContract('LMDB', lmdbStatusStore);
statusStoreHistoryContract('LMDB', lmdbStatusStore);
