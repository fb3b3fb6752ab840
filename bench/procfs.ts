import { readdirSync, readFileSync } from 'node:fs';

/** Clock ticks per second in /proc/<pid>/stat: USER_HZ, 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Resident memory of a process tree, in KiB. */
export interface Memory {
  /** All of it. */
  residentKiB: number;
  /** Heap and stacks: without the mapped pages of data files and of the program. */
  anonymousKiB: number;
}

/** User and system time that the processes and their living descendants have used, in seconds, in steps of 10 ms. */
export function cpuSeconds(pids: readonly number[]): number {
  let ticks = 0;
  for (const each of pids.flatMap(tree)) {
    const stat = readFileSync(`/proc/${each}/stat`, 'latin1');
    // The name in parentheses may hold blanks; utime and stime are fields 14 and 15, the 12th and 13th after it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}

/** Resident memory of the processes and their living descendants. */
export function memory(pids: readonly number[]): Memory {
  const sum: Memory = { residentKiB: 0, anonymousKiB: 0 };
  for (const each of pids.flatMap(tree)) {
    const status = readFileSync(`/proc/${each}/status`, 'latin1');
    sum.residentKiB += Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
    sum.anonymousKiB += Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return sum;
}

/** How many files this process may have open. */
export function openFilesLimit(): number {
  const limits = readFileSync('/proc/self/limits', 'latin1');
  return Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? 1024);
}

function tree(pid: number): number[] {
  const pids = [pid];
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'latin1').trim();
    if (children) for (const child of children.split(' ')) pids.push(...tree(Number(child)));
  }
  return pids;
}
