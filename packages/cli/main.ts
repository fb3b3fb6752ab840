import { run } from './program.js';
import type { Terminal } from './terminal.js';

const interrupt = new AbortController();
process.once('SIGINT', () => interrupt.abort());
process.once('SIGTERM', () => interrupt.abort());
// A reader that has enough, such as `head`, is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

const clearLine = '\r\u001b[K';
let pending = false;
const interactive = process.stdout.isTTY === true;

const terminal: Terminal = {
  env: process.env,
  stdin: process.stdin,
  stdout: process.stdout,
  interactive,
  columns: process.stdout.columns ?? 80,
  out(line) {
    process.stdout.write(`${pending ? clearLine : ''}${line}\n`);
    pending = false;
  },
  err(line) {
    process.stderr.write(`${pending ? clearLine : ''}${line}\n`);
    pending = false;
  },
  progress(line) {
    if (!interactive) return;
    process.stdout.write(`${clearLine}${line}`);
    pending = line !== '';
  },
  signal: interrupt.signal,
};

process.exitCode = await run(process.argv.slice(2), terminal);
// Standard input that nobody has read would keep the process.
process.stdin.destroy();
