import { inboxStoreContract } from './inbox-store.js';
import { lmdbInboxStore } from './lmdb-engines.js';

inboxStoreContract('LMDB', lmdbInboxStore);
