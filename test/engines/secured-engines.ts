import { execFileSync } from 'node:child_process';
import { createSecretKey, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { join } from 'node:path';
import { Cassandra as Client } from '@chatmesh/mesh/cassandra';
import { SignJWT } from 'jose';
import { Cassandra, Pulsar } from '#engines';
import { Authority } from '../certificates.js';

/** Of the file that the server's key is in; Java does not take one without. */
const STORE_PASSWORD = 'keystore';
/** The role that a new Cassandra has. */
const FIRST_ROLE = { username: 'cassandra', password: 'cassandra' };

/** A Cassandra that speaks over TLS alone, with those alone who have a password, and lets them do what they were permitted. */
export class SecuredCassandra extends Cassandra {
  static override model = Cassandra;
  readonly authority: Authority;
  readonly #keystore: string;

  /** @param directory for the certificates, too; it has to be there. */
  constructor(directory: string) {
    super({ directory: join(directory, 'cassandra') });
    this.authority = new Authority(directory, 'cassandra');
    this.#keystore = join(directory, 'cassandra.p12');
    const { certFile, keyFile } = this.authority.issue(`IP:${this.host}`);
    const pair = ['-in', certFile, '-inkey', keyFile, '-out', this.#keystore];
    execFileSync('openssl', ['pkcs12', '-export', ...pair, '-passout', `pass:${STORE_PASSWORD}`]);
  }

  override get env() {
    const { username, password } = FIRST_ROLE;
    return {
      ...super.env,
      SCYLLA_USERNAME: username,
      SCYLLA_PASSWORD: password,
      SCYLLA_TLS_CA: this.authority.caFile,
    };
  }

  /** It takes connections before it has its first role. */
  override async answers() {
    const { SCYLLA_CONTACT_POINTS, SCYLLA_LOCAL_DATACENTER, SCYLLA_TLS_CA } = this.env as Record<string, string>;
    const options = {
      contactPoints: [SCYLLA_CONTACT_POINTS as string],
      localDatacenter: SCYLLA_LOCAL_DATACENTER as string,
      tlsCaFile: SCYLLA_TLS_CA,
      keyspace: '',
      ...FIRST_ROLE,
    };
    const client = await Client.connect(options).catch(() => undefined);
    await client?.[Symbol.asyncDispose]();
    return client !== undefined;
  }

  protected override settings() {
    return {
      ...super.settings(),
      authenticator: 'PasswordAuthenticator',
      authorizer: 'CassandraAuthorizer',
      client_encryption_options: {
        enabled: true,
        optional: false,
        keystore: this.#keystore,
        keystore_password: STORE_PASSWORD,
        store_type: 'PKCS12',
      },
    };
  }
}

/** A Pulsar that listens with TLS alone, for those who bring a token of a role that may do what they ask for. */
export class SecuredPulsar extends Pulsar {
  static override model = Pulsar;
  readonly authority: Authority;
  /** Of the role that the mesh has: it may do everything. */
  readonly token: string;
  readonly #secret: Buffer;
  readonly #settings: Record<string, unknown>;

  private constructor(
    directory: string,
    parts: { authority: Authority; token: string; secret: Buffer; settings: Record<string, unknown> },
  ) {
    super({ directory: join(directory, 'pulsar') });
    this.authority = parts.authority;
    this.token = parts.token;
    this.#secret = parts.secret;
    this.#settings = parts.settings;
  }

  /** @param directory for certificates and the key of the tokens, too; it has to be there. */
  static async in(directory: string): Promise<SecuredPulsar> {
    const authority = new Authority(directory, 'pulsar');
    const { certFile, keyFile } = authority.issue('IP:127.0.0.1');
    const secret = randomBytes(32);
    const secretFile = join(directory, 'token.key');
    writeFileSync(secretFile, secret);
    const settings = {
      brokerServicePort: '',
      webServicePort: '',
      tlsCertificateFilePath: certFile,
      tlsKeyFilePath: keyFile,
      authenticationEnabled: true,
      authenticationProviders: 'org.apache.pulsar.broker.authentication.AuthenticationProviderToken',
      tokenSecretKey: `file://${secretFile}`,
      authorizationEnabled: true,
      superUserRoles: 'mesh,broker',
      // The broker is a client of itself.
      brokerClientTlsEnabled: true,
      brokerClientTrustCertsFilePath: authority.caFile,
      brokerClientAuthenticationPlugin: 'org.apache.pulsar.client.impl.auth.AuthenticationToken',
      brokerClientAuthenticationParameters: `token:${await signed('broker', secret)}`,
    };
    return new SecuredPulsar(directory, { authority, token: await signed('mesh', secret), secret, settings });
  }

  /** A token of a role, signed with the broker's key or with another one. */
  tokenOf(role: string, secret = this.#secret): Promise<string> {
    return signed(role, secret);
  }

  override get env() {
    return {
      PULSAR_URL: `pulsar+ssl://${this.host}:${this.ports.broker}`,
      PULSAR_ADMIN_URL: `https://${this.host}:${this.ports.admin}`,
      PULSAR_TOKEN: this.token,
      PULSAR_TLS_CA: this.authority.caFile,
    };
  }

  override async answers({ timeoutMs }: { timeoutMs: number }) {
    const asking = request(`${this.env.PULSAR_ADMIN_URL}/lookup/v2/topic/persistent/public/default/ready`, {
      ca: readFileSync(this.authority.caFile),
      headers: { authorization: `Bearer ${this.token}`, connection: 'close' },
      signal: AbortSignal.timeout(timeoutMs),
    });
    asking.end();
    try {
      const [response] = (await once(asking, 'response')) as [IncomingMessage];
      response.resume();
      return response.statusCode === 200;
    } catch {
      return false;
    }
  }

  protected override settings() {
    return {
      ...super.settings(),
      ...this.#settings,
      brokerServicePortTls: this.ports.broker,
      webServicePortTls: this.ports.admin,
    };
  }
}

const signed = (role: string, secret: Buffer) =>
  new SignJWT().setProtectedHeader({ alg: 'HS256' }).setSubject(role).sign(createSecretKey(secret));
