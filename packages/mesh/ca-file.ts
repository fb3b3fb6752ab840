import { readFileSync } from 'node:fs';
import { MeshError } from './errors.js';

/**
 * The authorities in a PEM file; undefined where no file is named.
 *
 * @param variable that names the file, for whoever has to mend it.
 * @throws MeshError `failed_precondition` when it cannot be read.
 */
export function readCa(file: string | undefined, variable: string): Buffer | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file);
  } catch (cause) {
    throw new MeshError('failed_precondition', `${variable}=${file} cannot be read: ${(cause as Error).message}`, {
      cause,
    });
  }
}
