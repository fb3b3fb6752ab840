import { closeSync, openSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { checksumOfSpace } from './lmdb-check.js';
import { Damage } from './lmdb-pages.js';
import { flush, writeOnce } from './one-time-file.js';

const MARK_FILE = 'CLEAN';

/**
 * Says that a data file was closed in order: beside it lie its size, the time of its last change (of the inode, which no
 * program can set: a file that was written to, copied or restored has another one) and a checksum of its meta pages and its
 * free list. While all of it is still so, the walk of `lmdb-check.ts` would find what it found before.
 *
 * @throws MeshError `unavailable` when the mark cannot be written.
 */
export function leaveMark(directory: string, file: string): void {
  const mark = markOf(file);
  if (mark !== undefined) writeOnce(join(directory, MARK_FILE), mark);
}

/** Whether the data file is as it was left. Takes the mark away, durably: what is written from now on makes it wrong. */
export function takeMark(directory: string, file: string): boolean {
  const path = join(directory, MARK_FILE);
  let mark: string;
  try {
    mark = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
  const unchanged = mark === markOf(file);
  rmSync(path);
  flush(directory);
  return unchanged;
}

/** Undefined of a file whose meta pages or free list are damaged. */
function markOf(file: string): string | undefined {
  const descriptor = openSync(file, 'r');
  try {
    const { size, ctimeNs } = statSync(file, { bigint: true });
    return `${size} ${ctimeNs} ${checksumOfSpace(descriptor).toString(16).padStart(8, '0')}\n`;
  } catch (error) {
    if (error instanceof Damage) return undefined;
    throw error;
  } finally {
    closeSync(descriptor);
  }
}
