import { lmdbMessageLog } from './lmdb-engines.js';
import { messageLogContract } from './message-log.js';
import { messageLogDeathContract } from './message-log-death.js';
import { messageLogGroupsContract } from './message-log-groups.js';
import { messageLogHistoryContract } from './message-log-history.js';

messageLogContract('LMDB', lmdbMessageLog);
messageLogGroupsContract('LMDB', lmdbMessageLog);
messageLogHistoryContract('LMDB', lmdbMessageLog);
messageLogDeathContract('LMDB', lmdbMessageLog);
