// What the operating system knows about processes, from /proc where there is one and from ps elsewhere.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

const linux = process.platform === 'linux';

/** @param {string[]} args @returns {string} */
const ps = (...args) => spawnSync('ps', args, { encoding: 'utf8' }).stdout.trim();

/**
 * The fields of /proc/<pid>/stat from the third on. The second one, the name, may contain spaces and parentheses.
 * @param {number | string} pid
 * @returns {string[] | undefined}
 */
function stat(pid) {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined; // ended meanwhile
  }
}

/**
 * When a process began, in the system's own terms. An id is given to another process once its process has ended; id and
 * birth together mean one process for ever.
 *
 * @param {number} pid
 * @returns {string | undefined} undefined when there is no such process, or only what its parent has not collected yet
 */
export function birthOf(pid) {
  if (linux) {
    const fields = stat(pid);
    return fields === undefined || fields[0] === 'Z' ? undefined : fields[19];
  }
  const line = ps('-o', 'stat=,lstart=', '-p', String(pid));
  return line === '' || line.startsWith('Z') ? undefined : line.slice(line.indexOf(' ')).trim();
}

/** @returns {[pid: number, parent: number][]} */
function everyProcess() {
  if (!linux) {
    const lines = ps('-A', '-o', 'pid=,ppid=').split('\n');
    return lines.map((line) => /** @type {[number, number]} */ (line.trim().split(/\s+/).map(Number)));
  }
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map((pid) => [Number(pid), Number(stat(pid)?.[1])]);
}

/**
 * A process and all that descend from it, parents first. PostgreSQL's backends leave the group of their parent, so a signal
 * to the group is not enough.
 *
 * @param {number} root
 * @returns {number[]} pids
 */
export function treeOf(root) {
  const tree = [root];
  const processes = everyProcess();
  for (const pid of tree) tree.push(...processes.filter(([, parent]) => parent === pid).map(([child]) => child));
  return tree;
}

/**
 * Signals a process; one that has ended has nothing to be told.
 *
 * @param {number} pid of a process, or the negative of a group's
 * @param {NodeJS.Signals} name
 */
export function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ESRCH') throw error;
  }
}
