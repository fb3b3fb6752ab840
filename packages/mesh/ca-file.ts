import { readFileSync } from 'node:fs';
import { MeshError } from './errors.js';

/** Whether this is Node's code for a certificate that it does not trust. */
export function isUntrusted(code: string): boolean {
  return /CERT|^UNABLE_TO_|SELF_SIGNED/.test(code);
}

/** Whether these are OpenSSL's words for a server that has not answered in TLS. */
export function isNotTls(message: string): boolean {
  return /wrong version number|packet length too long/i.test(message);
}

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
