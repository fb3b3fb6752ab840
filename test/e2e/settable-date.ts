/**
 * To be imported before anything else of a program (`node --import`): on SIGUSR2 the program's wall clock is set by as many milliseconds as
 * the file says that CLOCK_FILE names, as if somebody had set the machine's. What is measured with performance.now(), and timers, go on.
 */
import { readFileSync } from 'node:fs';
import { isMainThread } from 'node:worker_threads';

const machineNow = Date.now;
let setByMs = 0;
Date.now = () => machineNow() + setByMs;

if (isMainThread)
  process.on('SIGUSR2', () => {
    setByMs = Number(readFileSync(process.env.CLOCK_FILE as string, 'utf8'));
  });
