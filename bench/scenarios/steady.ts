import type { Bench } from '../bench.js';
import type { Account, Route, TrafficJob, TrafficResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import type { Server } from '../targets.js';

/** Sends of one sender without `sent` or arrival. */
export const WINDOW = 32;
/** The protocol's limit for one receipt frame. */
export const MAX_IDS_PER_RECEIPT = 256;

/** Everybody writes to a partner: 0 to 1, 1 to 0, 2 to 3 and so on. */
export function pairs(accounts: Account[]): Route[] {
  return accounts.map((sender, index) => ({ sender, recipient: [accounts[index ^ 1] as Account] }));
}

/** Messages delivered per second of the server's CPU time. */
export function deliveredPerCpuSecond({ delivered, serverCpuSeconds }: TrafficResult): number {
  return delivered / serverCpuSeconds;
}

/** One measured window of steady traffic, by default as fast as the server goes and with receipts in batches. */
export function steadyTraffic(
  bench: Bench,
  server: Server,
  routes: Route[],
  changes: Partial<Pick<TrafficJob, 'pace' | 'idsPerReceipt' | 'longTexts'>> = {},
): Promise<TrafficResult> {
  return runJob(server, {
    kind: 'traffic',
    routes,
    pace: { window: WINDOW },
    warmUpMs: bench.scale.warmUpMs,
    measureMs: bench.scale.measureMs,
    sampleMemoryMs: 0,
    idsPerReceipt: MAX_IDS_PER_RECEIPT,
    ...changes,
  });
}
