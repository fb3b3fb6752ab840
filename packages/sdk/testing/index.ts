export type { CheckOptions } from './check.js';
export { type DeviceRecorder, History, recordClientFrame, recordServerFrame } from './history.js';
export type { Line } from './line.js';
export { type Counts, type Fault, type FaultKind, faultKinds, formatReport, type Report } from './report.js';
