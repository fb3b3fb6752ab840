import type { Memory } from './procfs.js';

/** A user's device as the load generator needs it. */
export interface Account {
  userId: string;
  /** The bearer token of one device. */
  token: string;
}

/** What every job says. */
interface JobBase {
  /** `ws://host:port/connect`. */
  url: string;
  /** The processes whose CPU time and memory are measured, with their children. */
  serverPids: readonly number[];
  /** How many messages one receipt frame confirms at most, 1 to 256; a frame gathers what one turn received. */
  idsPerReceipt: number;
  /** False where the server drops receipts. */
  receipts: boolean;
  /** Texts of 4 KB instead of some hundred bytes. */
  longTexts?: boolean;
}

/** One sender and the user it writes to. */
export interface Route {
  sender: Account;
  /** The devices of one user; the user has to be online unless the job says otherwise. */
  recipient: Account[];
}

/** Steady traffic over fixed routes, measured over a window. */
export interface TrafficJob extends JobBase {
  kind: 'traffic';
  routes: Route[];
  /** Closed loop: so many sends per route without `sent` or without arrival. Open loop: all routes' messages a second. */
  pace: { window: number } | { perSecond: number };
  /** Traffic before anything is measured, milliseconds. */
  warmUpMs: number;
  measureMs: number;
  /** Sampling of the server's memory during the measured window, milliseconds; 0 is off. */
  sampleMemoryMs: number;
}

/** A fixed number of messages, as fast as a window allows, to recipients who may stay offline. */
export interface FillJob extends JobBase {
  kind: 'fill';
  routes: Route[];
  window: number;
  messagesPerRoute: number;
  /** True connects the recipients first, and waits for arrival and receipts too. */
  online: boolean;
}

/** A backlog stored for one offline device, then read. */
export interface DrainJob extends JobBase {
  kind: 'drain';
  senders: Account[];
  recipient: Account;
  messages: number;
  window: number;
}

/** Connections that do nothing. */
export interface IdleJob extends JobBase {
  kind: 'idle';
  accounts: Account[];
}

export type Job = TrafficJob | FillJob | DrainJob | IdleJob;

/** Milliseconds. */
export interface Latency {
  p50: number;
  p90: number;
  p99: number;
  p999: number;
  max: number;
}

/** What came out of the promises; all 0 where they held. */
export interface Broken {
  /** Accepted and never received by some device of the recipient. */
  lost: number;
  /** Received more than once by a device. */
  repeated: number;
  /** Received by a device after a younger message of the same sender. */
  reordered: number;
  /** Received with an earlier timestamp than the message of the same sender before. */
  backdated: number;
  /** Received with another content. */
  altered: number;
  /** Sends that never got `sent`. */
  unanswered: number;
  /** Messages without a `delivered` at their sender. */
  receiptsLost: number;
  /** `delivered` that came to the sender more than once, although acked. */
  receiptsRepeated: number;
}

export interface TrafficResult {
  seconds: number;
  /** `sent` frames within the window. */
  accepted: number;
  /** Messages that arrived at the recipient's first device within the window. */
  delivered: number;
  /** Messages that arrived at any device within the window. */
  copies: number;
  /** `delivered` frames that arrived at senders within the window. */
  receipts: number;
  serverCpuSeconds: number;
  loadCpuSeconds: number;
  /** From the write of a send to the arrival of: its `sent`, the message, its `delivered` receipt. */
  latency: { sent: Latency; message: Latency; receipt: Latency };
  /** The server's memory over the window. */
  memory: { seconds: number; memory: Memory }[];
  broken: Broken;
}

export interface FillResult {
  messages: number;
  seconds: number;
  serverCpuSeconds: number;
  broken: Broken;
}

export interface DrainResult {
  messages: number;
  storeSeconds: number;
  storeServerCpuSeconds: number;
  /** From the start of the connect to the last message. */
  drainSeconds: number;
  drainServerCpuSeconds: number;
  broken: Broken;
}

export interface IdleResult {
  connections: number;
  /** Without connections. */
  before: Memory;
  /** With them, 10 s after the last connect. */
  soon: Memory;
  /** With them, as the process is when it is left alone. */
  after: Memory;
  /** With them, and the garbage collected. */
  collected: Memory;
  connectSeconds: number;
  connectServerCpuSeconds: number;
}

/** Which result a job gives. */
export interface Results {
  traffic: TrafficResult;
  fill: FillResult;
  drain: DrainResult;
  idle: IdleResult;
}

/** What the load generator's process answers. */
export type Answer = { result: Results[keyof Results] } | { error: string };
