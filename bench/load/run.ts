import { setTimeout as sleep } from 'node:timers/promises';
import type {
  DrainJob,
  DrainResult,
  FillJob,
  FillResult,
  IdleJob,
  IdleResult,
  TrafficJob,
  TrafficResult,
} from '../jobs.js';
import { cpuSeconds, type Memory, memory } from '../procfs.js';
import { Traffic } from './traffic.js';

/** Memory has settled when it stayed within this share over this many samples, one a second. */
const SETTLED_SHARE = 0.005;
const SETTLED_SAMPLES = 10;
const SETTLE_TIMEOUT_SECONDS = 120;
const SOON_MS = 10_000;
/** A server may wait this long before it takes itself for idle. */
const LEFT_ALONE_MS = 30_000;

/** Runs steady traffic and measures a window of it. */
export async function runTraffic(job: TrafficJob): Promise<TrafficResult> {
  const traffic = new Traffic(job.routes, { ...job, online: true });
  await traffic.connect();
  let stop = () => traffic.stop();
  if ('window' in job.pace) traffic.startClosedLoop(job.pace.window);
  else stop = traffic.startOpenLoop(job.pace.perSecond);
  await Promise.race([sleep(job.warmUpMs), traffic.failed]);

  traffic.meter.reset();
  const samples: TrafficResult['memory'] = [];
  const watch = stopwatch(job.serverPids);
  const sample = () => samples.push({ seconds: watch().seconds, memory: memory(job.serverPids) });
  const sampler = job.sampleMemoryMs > 0 ? setInterval(sample, job.sampleMemoryMs) : undefined;
  await Promise.race([sleep(job.measureMs), traffic.failed]);
  const { seconds, serverCpuSeconds, loadCpuSeconds } = watch();
  clearInterval(sampler);
  const { accepted, delivered, copies, receipts, sent, message, receipt } = traffic.meter;
  const latency = { sent: sent.summary(), message: message.summary(), receipt: receipt.summary() };

  stop();
  const broken = await traffic.settle({ deliveries: true, receipts: job.receipts });
  await traffic.end();
  const counted = { accepted, delivered, copies, receipts };
  return { seconds, ...counted, serverCpuSeconds, loadCpuSeconds, latency, memory: samples, broken };
}

/** Sends a fixed number of messages. */
export async function runFill(job: FillJob): Promise<FillResult> {
  const traffic = new Traffic(job.routes, job);
  await traffic.connect();
  const watch = stopwatch(job.serverPids);
  traffic.startClosedLoop(job.window, job.messagesPerRoute);
  const broken = await traffic.settle({ deliveries: job.online, receipts: job.online && job.receipts });
  const { seconds, serverCpuSeconds } = watch();
  await traffic.end();
  return { messages: job.routes.length * job.messagesPerRoute, seconds, serverCpuSeconds, broken };
}

/** Stores a backlog for an offline device, then connects and reads it. */
export async function runDrain(job: DrainJob): Promise<DrainResult> {
  const messagesPerRoute = Math.floor(job.messages / job.senders.length);
  const routes = job.senders.map((sender) => ({ sender, recipient: [job.recipient] }));
  const traffic = new Traffic(routes, { ...job, online: false });
  await traffic.connect();
  const storing = stopwatch(job.serverPids);
  traffic.startClosedLoop(job.window, messagesPerRoute);
  await traffic.settle({ deliveries: false, receipts: false });
  const stored = storing();

  const draining = stopwatch(job.serverPids);
  // caught_up follows the last message of the backlog.
  await traffic.connectRecipients();
  const drained = draining();
  const broken = await traffic.settle({ deliveries: true, receipts: job.receipts });
  await traffic.end();
  return {
    messages: routes.length * messagesPerRoute,
    storeSeconds: stored.seconds,
    storeServerCpuSeconds: stored.serverCpuSeconds,
    drainSeconds: drained.seconds,
    drainServerCpuSeconds: drained.serverCpuSeconds,
    broken,
  };
}

/** Opens connections that stay idle and looks at the server's memory. The server collects garbage at SIGUSR2. */
export async function runIdle(job: IdleJob): Promise<IdleResult> {
  const routes = job.accounts.map((account) => ({ sender: account, recipient: [account] }));
  const traffic = new Traffic(routes, { ...job, online: false });
  const before = await collectedMemory(job.serverPids);
  const watch = stopwatch(job.serverPids);
  await traffic.connect();
  const { seconds, serverCpuSeconds } = watch();
  await Promise.race([sleep(SOON_MS), traffic.failed]);
  const soon = memory(job.serverPids);
  await Promise.race([sleep(LEFT_ALONE_MS), traffic.failed]);
  const after = await Promise.race([settledMemory(job.serverPids), traffic.failed]);
  const collected = await Promise.race([collectedMemory(job.serverPids), traffic.failed]);
  await traffic.end();
  return {
    connections: job.accounts.length,
    before,
    soon,
    after,
    collected,
    connectSeconds: seconds,
    connectServerCpuSeconds: serverCpuSeconds,
  };
}

/** Starts measuring; the returned function says what passed since. */
function stopwatch(serverPids: readonly number[]) {
  const begin = performance.now();
  const server = cpuSeconds(serverPids);
  const own = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(own);
    return {
      seconds: (performance.now() - begin) / 1000,
      serverCpuSeconds: cpuSeconds(serverPids) - server,
      loadCpuSeconds: (user + system) / 1_000_000,
    };
  };
}

/** The server's memory after its garbage was collected, which gives pages back little by little. */
function collectedMemory(serverPids: readonly number[]): Promise<Memory> {
  return settledMemory(serverPids, () => {
    for (const pid of serverPids) process.kill(pid, 'SIGUSR2');
  });
}

/** The server's memory once it has settled, or at the end of the wait. */
async function settledMemory(serverPids: readonly number[], everySecond: () => void = () => {}): Promise<Memory> {
  const samples: Memory[] = [];
  for (let second = 0; second < SETTLE_TIMEOUT_SECONDS; second++) {
    everySecond();
    await sleep(1000);
    samples.push(memory(serverPids));
    const recent = samples.slice(-SETTLED_SAMPLES).map(({ residentKiB }) => residentKiB);
    const range = Math.max(...recent) - Math.min(...recent);
    if (recent.length === SETTLED_SAMPLES && range <= SETTLED_SHARE * Math.max(...recent)) break;
  }
  return samples.at(-1) as Memory;
}
