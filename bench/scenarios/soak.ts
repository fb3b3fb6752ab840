import type { Bench, Outcome } from '../bench.js';
import type { TrafficResult } from '../jobs.js';
import { runJob } from '../load-process.js';
import { MAX_IDS_PER_RECEIPT, pairs, steadyTraffic } from './steady.js';

const USERS = 200;
const SAMPLE_MS = 5_000;
/** In less time a slope is mostly noise, and is shown without a verdict. */
const JUDGED_FROM_MS = 300_000;
/** The heap finds its working size before memory is judged. */
const WARM_UP_MS = 30_000;
/** Growth of the memory outside mapped files, share of itself over the whole run, that counts as flat. */
const FLAT_SHARE = 0.05;

/** The mesh's memory at half of what it carries at most. */
export async function soak(bench: Bench): Promise<Outcome> {
  if (bench.scale.soakMs === 0 || !bench.targets.includes('mesh')) return { rows: [], raw: [] };
  await using server = await bench.start('mesh', 'soak');
  const routes = pairs(await server.createUsers(USERS));
  const full = await steadyTraffic(bench, server, routes);
  const perSecond = Math.round(full.delivered / full.seconds / 2);
  bench.log(`  half load is ${perSecond} messages/s`);
  const half = await runJob(server, {
    kind: 'traffic',
    routes,
    idsPerReceipt: MAX_IDS_PER_RECEIPT,
    pace: { perSecond },
    warmUpMs: WARM_UP_MS,
    measureMs: bench.scale.soakMs,
    sampleMemoryMs: SAMPLE_MS,
  });
  const minutes = bench.scale.soakMs / 60_000;
  const anonymous = slopePerMinute(half, 'anonymousKiB');
  const mean = half.memory.reduce((sum, { memory }) => sum + memory.anonymousKiB, 0) / half.memory.length;
  const reached = anonymous * minutes <= FLAT_SHARE * mean;
  return {
    rows: [
      {
        measure: `growth of memory at ${perSecond} messages/s over ${minutes.toFixed(1)} min, of ${Math.round(mean / 1024)} MiB`,
        unit: 'MiB per min',
        values: { mesh: anonymous / 1024 },
        ...(bench.scale.soakMs >= JUDGED_FROM_MS && { goal: { text: 'flat: below 5% over the run', reached } }),
      },
      {
        measure: 'the same with mapped pages of the data files',
        unit: 'MiB per min',
        values: { mesh: slopePerMinute(half, 'residentKiB') / 1024 },
      },
    ],
    raw: { full, half },
  };
}

/** Least squares over the samples, KiB per minute. */
function slopePerMinute({ memory: samples }: TrafficResult, kind: 'anonymousKiB' | 'residentKiB'): number {
  const points = samples.map(({ seconds, memory }) => ({ x: seconds / 60, y: memory[kind] }));
  const meanX = points.reduce((sum, { x }) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, { y }) => sum + y, 0) / points.length;
  const covariance = points.reduce((sum, { x, y }) => sum + (x - meanX) * (y - meanY), 0);
  return covariance / points.reduce((sum, { x }) => sum + (x - meanX) ** 2, 0);
}
