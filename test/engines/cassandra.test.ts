import { cassandraStatusStore } from '../contract/cassandra-engines.js';
import { statusStoreContract } from '../contract/status-store.js';
import { statusStoreHistoryContract } from '../contract/status-store-history.js';

statusStoreContract('Cassandra', cassandraStatusStore);
statusStoreHistoryContract('Cassandra', cassandraStatusStore);
