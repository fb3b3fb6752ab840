import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CommandError, exitCodes } from '../failure.js';
import type { Terminal } from '../terminal.js';

/** It needs what the services know of their engines, and this command line knows the services by their contracts only. */
const program = fileURLToPath(new URL('../../../../services/dist/migrate.js', import.meta.url));

/** `migrate`: a line for each real engine that the environment names, by the services' own program. */
export async function migrateCommand(terminal: Terminal, { json }: { json: boolean }): Promise<void> {
  if (!existsSync(program)) {
    throw new CommandError(exitCodes.refused, 'The services are not built yet: run `npm run build`.');
  }
  const child = spawn(process.execPath, [program, ...(json ? ['--json'] : [])], {
    env: { ...terminal.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    signal: terminal.signal,
  });
  const printed = createInterface({ input: child.stdout }).on('line', (line) => terminal.out(line));
  const complaints: string[] = [];
  const complained = createInterface({ input: child.stderr }).on('line', (line) => complaints.push(line));
  await Promise.all([once(child, 'exit'), once(printed, 'close'), once(complained, 'close')]);
  const code = child.exitCode ?? exitCodes.refused;
  if (code !== exitCodes.ok) throw new CommandError(code, complaints.join('\n') || 'Not every engine is prepared.');
}
