import { cassandraInboxStore, cassandraStatusStore } from '../contract/cassandra-engines.js';
import { inboxStoreContract } from '../contract/inbox-store.js';
import { statusStoreContract } from '../contract/status-store.js';
import { statusStoreHistoryContract } from '../contract/status-store-history.js';

inboxStoreContract('Cassandra', cassandraInboxStore);
statusStoreContract('Cassandra', cassandraStatusStore);
statusStoreHistoryContract('Cassandra', cassandraStatusStore);
