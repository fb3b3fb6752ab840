export { type EdgeConfig, readConfig } from './config.js';
export { type EdgeOverrides, EdgeService } from './service.js';
