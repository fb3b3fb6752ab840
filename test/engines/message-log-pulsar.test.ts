import { messageLogContract } from '../contract/message-log.js';
import { messageLogDeathContract } from '../contract/message-log-death.js';
import { messageLogGroupsContract } from '../contract/message-log-groups.js';
import { messageLogHistoryContract } from '../contract/message-log-history.js';
import { pulsarMessageLog } from './pulsar-engine.js';

messageLogContract('Pulsar', pulsarMessageLog);
messageLogGroupsContract('Pulsar', pulsarMessageLog);
messageLogHistoryContract('Pulsar', pulsarMessageLog, 10);
messageLogDeathContract('Pulsar', pulsarMessageLog);
