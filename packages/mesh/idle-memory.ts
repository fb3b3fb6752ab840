import { performance } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';

const LOOK_MS = 1_000;
/**
 * A smaller share of one core than this counts as idle. Ten thousand connections that do nothing take 2 to 3% (heartbeats), a
 * thousand messages a second more than 10%: those should not meet the longer pauses of a collection that compacts everything.
 */
const IDLE_SHARE = 0.06;
/**
 * So many looks in a row make the process idle: after a pause of some seconds the traffic that returns should not pay for a
 * heap that was made small. So many make it busy again: the reducer's own work takes a second or two.
 */
const TO_IDLE = 20;
const TO_BUSY = 3;

/**
 * Lets V8 give memory back while the process has little to do; to be called once per process, by its main thread.
 *
 * What a burst leaves behind, such as thousands of connects, is several times what stays in use: garbage that was promoted,
 * and a young generation at its full size. V8's memory reducer collects and returns it step by step, but only where
 * allocation is low (Heap::HasLowAllocationRate), which takes no allocation at all in the old generation for a lot: in an
 * idle server it waits for ever. `--optimize-for-size` is the other condition that lets it begin
 * (Heap::ShouldOptimizeForMemoryUsage), and the one that a program can set while it runs.
 *
 * @param cpuUsage of the process, such as `process.cpuUsage`.
 * @param lookMs how often it is looked at, milliseconds.
 */
export function giveBackMemoryWhenIdle(cpuUsage: () => { user: number; system: number }, lookMs = LOOK_MS): Disposable {
  const usedMs = () => {
    const { user, system } = cpuUsage();
    return (user + system) / 1000;
  };
  let before = { atMs: performance.now(), usedMs: usedMs() };
  let idle = false;
  /** Looks in a row that said otherwise. */
  let against = 0;
  const timer = setInterval(() => {
    const now = { atMs: performance.now(), usedMs: usedMs() };
    const share = (now.usedMs - before.usedMs) / (now.atMs - before.atMs);
    before = now;
    against = share < IDLE_SHARE === idle ? 0 : against + 1;
    if (against < (idle ? TO_BUSY : TO_IDLE)) return;
    idle = !idle;
    against = 0;
    setFlagsFromString(idle ? '--optimize-for-size' : '--no-optimize-for-size');
  }, lookMs).unref();
  return {
    [Symbol.dispose]() {
      clearInterval(timer);
      setFlagsFromString('--no-optimize-for-size');
    },
  };
}
