import type { Answer, Job, Results } from '../jobs.js';
import { runDrain, runFill, runIdle, runTraffic } from './run.js';

// The load generator's process: takes one job from its parent, answers with the result, and leaves.

function run(job: Job): Promise<Results[keyof Results]> {
  switch (job.kind) {
    case 'traffic':
      return runTraffic(job);
    case 'fill':
      return runFill(job);
    case 'drain':
      return runDrain(job);
    case 'idle':
      return runIdle(job);
  }
}

process.once('message', async (job: Job) => {
  const answer: Answer = await run(job).then(
    (result) => ({ result }),
    (error: Error) => ({ error: error.stack ?? error.message }),
  );
  process.send?.(answer, () => process.exit());
});

// The parent is gone: nobody waits for the answer.
process.once('disconnect', () => process.exit(1));
