import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { MeshError } from './errors.js';

/**
 * Writes a file that is written once and relied on ever after. When this returns, the file is on the disk under its name; whatever
 * ends the process or the machine before, there is either the whole file or none.
 *
 * @param options.mode of the file, as of open(2).
 * @throws MeshError `unavailable` naming the file when it cannot be written.
 */
export function writeOnce(file: string, content: string | Uint8Array, options: { mode?: number } = {}): void {
  const draft = `${file}.new`;
  try {
    // One that an interrupted attempt left keeps its own mode.
    rmSync(draft, { force: true });
    writeFileSync(draft, content, { mode: options.mode ?? 0o666, flush: true });
    renameSync(draft, file);
    flush(dirname(file));
  } catch (cause) {
    rmSync(draft, { force: true });
    throw new MeshError('unavailable', `cannot write ${file}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * Makes a directory and those above it where they are missing. When this returns, their names are on the disk.
 *
 * @throws MeshError `failed_precondition` naming the directory.
 */
export function makeDirectory(directory: string): void {
  try {
    make(resolve(directory));
  } catch (cause) {
    throw new MeshError(
      'failed_precondition',
      `the data directory ${directory} cannot be made: ${(cause as Error).message}`,
      { cause },
    );
  }
}

/**
 * A level is made after the one above it is on the disk. So of one that is there, only its own name may not be: its maker may have
 * ended before the flush.
 */
function make(directory: string): void {
  const above = dirname(directory);
  if (above === directory) return;
  if (!existsSync(directory)) {
    make(above);
    // Another process may make it at the same time.
    mkdirSync(directory, { recursive: true });
  }
  flush(above);
}

/** Has the disk keep what a file holds, or the names in a directory. @throws what the file system says. */
export function flush(path: string): void {
  const descriptor = openSync(path, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
