import { execFileSync } from 'node:child_process';
import { copyFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import type { TlsFiles } from '@chatmesh/mesh';

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** A certificate authority of a test, with its files in a directory of the test. */
export class Authority {
  readonly caFile: string;
  readonly #directory: string;
  readonly #name: string;

  constructor(directory: string, name: string) {
    this.#directory = directory;
    this.#name = name;
    this.caFile = this.#path('ca.crt');
    this.#openssl(
      'req',
      '-x509',
      ...KEY,
      '-days',
      '2',
      '-subj',
      `/CN=${name}`,
      '-keyout',
      this.#path('ca.key'),
      '-out',
      this.caFile,
    );
  }

  /** Makes a certificate with these alternative names, such as `DNS:edge`. */
  issue(...names: string[]): TlsFiles {
    const base = names.join('_').replace(/[^a-z0-9_]/gi, '-');
    const [certFile, keyFile, request] = [
      this.#path(`${base}.crt`),
      this.#path(`${base}.key`),
      this.#path(`${base}.csr`),
    ];
    const subject = [
      '-subj',
      '/CN=test',
      ...(names.length > 0 ? ['-addext', `subjectAltName=${names.join(',')}`] : []),
    ];
    this.#openssl('req', ...KEY, ...subject, '-keyout', keyFile, '-out', request);
    const signed = ['-CA', this.caFile, '-CAkey', this.#path('ca.key'), '-CAcreateserial', '-copy_extensions', 'copy'];
    this.#openssl('x509', '-req', '-in', request, ...signed, '-days', '2', '-out', certFile);
    return { certFile, keyFile, caFile: this.caFile };
  }

  #path(file: string): string {
    return join(this.#directory, `${this.#name}-${file}`);
  }

  #openssl(...parameters: string[]): void {
    try {
      execFileSync('openssl', parameters, { stdio: ['ignore', 'ignore', 'pipe'] });
    } catch (error) {
      throw new Error(`this test needs openssl 3: ${(error as Error).message}`);
    }
  }
}

/** Puts other material into the files that somebody watches, one file after the other. */
export function replaceFiles(files: TlsFiles, by: TlsFiles): void {
  for (const name of ['caFile', 'certFile', 'keyFile'] as const) {
    copyFileSync(by[name], `${files[name]}.new`);
    renameSync(`${files[name]}.new`, files[name]);
  }
}
