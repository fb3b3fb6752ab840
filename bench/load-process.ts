import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Answer, Broken, Job, Results } from './jobs.js';
import type { Server } from './targets.js';

const LOAD = fileURLToPath(new URL('./load/main.js', import.meta.url));
/** No job takes longer than this. */
const JOB_TIMEOUT_MS = 20 * 60_000;

/** A job without what the server says about itself. */
export type JobFor<K extends Job['kind']> = Omit<Extract<Job, { kind: K }>, 'url' | 'serverPids' | 'receipts'>;

/**
 * Runs a job in a new process of the load generator.
 *
 * @throws Error when a promise was broken, the server died, or the job could not be done; with the end of what the
 * server printed.
 */
export async function runJob<K extends Job['kind']>(server: Server, job: JobFor<K> & { kind: K }): Promise<Results[K]> {
  const child = fork(LOAD, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const kill = () => child.kill('SIGKILL');
  process.once('exit', kill);
  const timer = setTimeout(kill, JOB_TIMEOUT_MS);
  try {
    const answered = new Promise<Results[K]>((resolve, reject) => {
      child.once('message', (answer: Answer) => {
        if ('error' in answer) reject(new Error(answer.error));
        else resolve(answer.result as Results[K]);
      });
      child.once('exit', (code, signal) => reject(new Error(`the load generator ended with ${signal ?? code}`)));
      child.send({ ...job, url: server.url, serverPids: server.pids, receipts: server.receipts });
    });
    const result = await Promise.race([answered, server.process.died]);
    if ('broken' in result) insist(result.broken);
    return result;
  } catch (cause) {
    const said = server.process.tail ? `\nThe end of what the server printed:\n${server.process.tail}` : '';
    throw new Error(`${server.target}, ${job.kind}: ${(cause as Error).message}${said}`, { cause });
  } finally {
    clearTimeout(timer);
    process.off('exit', kill);
    kill();
  }
}

function insist(broken: Broken): void {
  const found = Object.entries(broken).filter(([, count]) => count !== 0);
  if (found.length > 0)
    throw new Error(`broken promises: ${found.map(([what, count]) => `${what} ${count}`).join(', ')}`);
}
