/**
 * What an idle session costs presence: `node --expose-gc test/dist/unit/presence/memory.js [SESSIONS]`.
 */
import { randomUUID } from 'node:crypto';
import { monotonicMs } from '@chatmesh/mesh';
import { MemoryPresenceStore } from '@chatmesh/presence';

const sessions = Number(process.argv[2] ?? 100_000);
const PER_REPORT = 5_000;

const used = () => {
  // Twice: the memory of typed arrays goes with the collection after the one that frees them.
  globalThis.gc?.();
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
};

const store = new MemoryPresenceStore({ now: Date.now, monotonicMs });
const edgeId = randomUUID();
await store.report({ edgeId, leaseMs: 600_000, full: true, opened: [], closed: [] });
const before = used();
const startedMs = performance.now();
for (let at = 0; at < sessions; at += PER_REPORT) {
  const opened = Array.from({ length: Math.min(PER_REPORT, sessions - at) }, (_, i) => ({
    userId: randomUUID(),
    deviceId: randomUUID(),
    session: at + i,
  }));
  await store.report({ edgeId, leaseMs: 600_000, full: false, opened, closed: [] });
}
const ms = performance.now() - startedMs;
const bytes = used() - before;
console.log(`${store.size} sessions in ${Math.round(ms)} ms, ${Math.round(bytes / sessions)} bytes each`);
