import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { type ChannelCredentials, experimental, type ServerCredentials } from '@grpc/grpc-js';
import type { EnvReader } from '../config.js';
import { MeshError } from '../errors.js';
import type { Logger } from '../observe.js';
import { namesOf } from './peers.js';

/** Long before a certificate that is renewed in time expires. */
const LOOK_MS = 5_000;

/** PEM files. */
export interface TlsFiles {
  /** The certificate, with what lies between it and the authority. */
  readonly certFile: string;
  readonly keyFile: string;
  /** The authorities that may have signed the others' certificates. */
  readonly caFile: string;
}

/** The variables that name them. */
export const TLS_VARIABLES = ['MESH_TLS_CERT', 'MESH_TLS_KEY', 'MESH_TLS_CA'] as const;

/**
 * Reads MESH_TLS_CERT, MESH_TLS_KEY and MESH_TLS_CA: all three or none. Without them the ports between services are open to
 * whoever reaches them, so that they may then be on loopback only, unless MESH_INSECURE=true.
 */
export function readTls(env: EnvReader): TlsFiles | undefined {
  const [certFile, keyFile, caFile] = TLS_VARIABLES.map((name) => env.optional(name));
  const insecure = env.boolean('MESH_INSECURE', false);
  const host = env.host('MESH_HOST', '127.0.0.1');
  if (certFile !== undefined && keyFile !== undefined && caFile !== undefined) return { certFile, keyFile, caFile };
  if (certFile !== undefined || keyFile !== undefined || caFile !== undefined) {
    env.reject('MESH_TLS_CERT', 'MESH_TLS_CERT, MESH_TLS_KEY and MESH_TLS_CA belong together: set all three, or none');
  } else if (!insecure && !isLoopback(host)) {
    env.reject(
      'MESH_HOST',
      `MESH_HOST=${host} lets others call the services unasked: set MESH_TLS_CERT, MESH_TLS_KEY and MESH_TLS_CA, or ` +
        'MESH_INSECURE=true where something else keeps strangers away',
    );
  }
  return undefined;
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

interface Material {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly ca: Buffer;
}

/**
 * Mutual TLS of one process with the others of the mesh. Both sides show a certificate of the mesh's own authority; a client
 * asks for the name of the service and not for that of the host, and a server asks peers.ts what the caller may call. When
 * the files change, new connections use what is in them, and those that are there go on.
 */
export class MeshTls {
  readonly serverCredentials: ServerCredentials;
  readonly clientCredentials: ChannelCredentials;
  readonly #files: TlsFiles;
  readonly #logger: Logger;
  readonly #onCa = new Set<experimental.CaCertificateUpdateListener>();
  readonly #onIdentity = new Set<experimental.IdentityCertificateUpdateListener>();
  #material: Material;
  /** What was read last, good or not: bad material is complained about once. */
  #read: Material;
  #timer: NodeJS.Timeout | undefined;

  private constructor(files: TlsFiles, material: Material, logger: Logger, lookMs: number) {
    this.#files = files;
    this.#logger = logger;
    this.#material = material;
    this.#read = material;
    const provider = this.#provider();
    this.serverCredentials = experimental.createCertificateProviderServerCredentials(provider, provider, true);
    this.clientCredentials = experimental.createCertificateProviderChannelCredentials(provider, provider, {
      checkServerIdentity: (service, certificate) =>
        namesOf(certificate).includes(service)
          ? undefined
          : new Error(
              `the certificate is not that of ${service}, but of ${namesOf(certificate).join(', ') || 'nobody'}`,
            ),
    });
    this.#look(lookMs);
  }

  /**
   * Reads the files, and again every five seconds.
   *
   * @throws MeshError `failed_precondition` naming what cannot be read or does not fit together.
   */
  static open(files: TlsFiles, { logger, lookMs = LOOK_MS }: { logger: Logger; lookMs?: number }): MeshTls {
    try {
      const { certFile, keyFile, caFile } = files;
      const material = { cert: readFileSync(certFile), key: readFileSync(keyFile), ca: readFileSync(caFile) };
      return new MeshTls(files, checked(material), logger, lookMs);
    } catch (cause) {
      const why = (cause as Error).message;
      throw new MeshError('failed_precondition', `MESH_TLS_CERT, MESH_TLS_KEY or MESH_TLS_CA cannot be used: ${why}`, {
        cause,
      });
    }
  }

  /** Stops looking at the files. */
  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #provider(): experimental.CertificateProvider {
    const identity = () => ({ certificate: this.#material.cert, privateKey: this.#material.key });
    const ca = () => ({ caCertificate: this.#material.ca });
    return {
      // grpc-js expects to be told later, and misses what it is told at once.
      addCaCertificateListener: (listener) => {
        this.#onCa.add(listener);
        queueMicrotask(() => listener(ca()));
      },
      removeCaCertificateListener: (listener) => this.#onCa.delete(listener),
      addIdentityCertificateListener: (listener) => {
        this.#onIdentity.add(listener);
        queueMicrotask(() => listener(identity()));
      },
      removeIdentityCertificateListener: (listener) => this.#onIdentity.delete(listener),
    };
  }

  #look(lookMs: number): void {
    this.#timer = setTimeout(async () => {
      await this.#reload();
      if (this.#timer) this.#look(lookMs);
    }, lookMs).unref();
  }

  async #reload(): Promise<void> {
    const { certFile, keyFile, caFile } = this.#files;
    try {
      const [cert, key, ca] = await Promise.all([readFile(certFile), readFile(keyFile), readFile(caFile)]);
      const { cert: oldCert, key: oldKey, ca: oldCa } = this.#read;
      if (cert.equals(oldCert) && key.equals(oldKey) && ca.equals(oldCa)) return;
      this.#read = { cert, key, ca };
      this.#material = checked(this.#read);
      for (const listener of this.#onCa) listener({ caCertificate: ca });
      for (const listener of this.#onIdentity) listener({ certificate: cert, privateKey: key });
      this.#logger.info({ validTo: new X509Certificate(cert).validTo }, 'the certificate of the mesh was read anew');
    } catch (error) {
      // A renewal writes one file after the other: the next look finds them all.
      this.#logger.warn(
        { reason: (error as Error).message },
        'the changed certificate cannot be used; the old one serves on',
      );
    }
  }
}

/** The same material. @throws when the key does not fit the certificate, or something is no PEM. */
function checked(material: Material): Material {
  createSecureContext(material);
  new X509Certificate(material.ca);
  return material;
}
