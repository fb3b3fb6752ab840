import { createHash } from 'node:crypto';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, type Logger, MeshError, type MeshTls } from '@chatmesh/mesh';
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  jwtVerify,
} from 'jose';
import type { AuthConfig } from '../config.js';
import { isUuid } from '../domain/frames.js';
import type { Identity } from '../sessions/session.js';

/** A verified token. */
export interface VerifiedToken extends Identity {
  /** True when another issuer than the mesh's own signed it: it may name a user that does not exist yet. */
  readonly external: boolean;
}

interface OwnKeys {
  readonly issuer: string;
  readonly keys: JWTVerifyGetKey;
  readonly fetchedAtMs: number;
}

const MAX_UUID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
const NIL_UUID = '00000000-0000-0000-0000-000000000000';
const MAX_TOKEN_LENGTH = 8192;
/** Verified tokens are remembered, so that a unary call does not pay for a signature each time. */
const REMEMBERED_TOKENS = 20_000;
const REFETCH_KEYS_MS = 1_000;

/** Verifies tokens of the mesh's own issuer, of the issuer behind a JWKS URL, and of a shared secret, where configured. */
export class TokenVerifier {
  readonly #config: AuthConfig;
  readonly #directory;
  readonly #external: JWTVerifyGetKey | undefined;
  readonly #secret: Uint8Array | undefined;
  readonly #now: () => number;
  readonly #verified = new Map<string, VerifiedToken>();
  #own: OwnKeys | undefined;
  #fetching: Promise<void> | undefined;

  constructor(options: {
    config: AuthConfig;
    userAddress: string;
    logger: Logger;
    tls?: MeshTls | undefined;
    now: () => number;
  }) {
    const { logger, tls } = options;
    this.#config = options.config;
    this.#now = options.now;
    this.#directory = createClient(DirectoryService, { address: options.userAddress, logger, tls });
    this.#external = options.config.jwksUrl ? createRemoteJWKSet(new URL(options.config.jwksUrl)) : undefined;
    this.#secret = options.config.hs256Secret ? new TextEncoder().encode(options.config.hs256Secret) : undefined;
  }

  /**
   * Verifies signature, issuer, audience and expiry.
   *
   * @throws MeshError `unauthenticated` for anything wrong with the token, `unavailable` when the keys cannot be had.
   */
  async verify(token: string): Promise<VerifiedToken> {
    if (token.length === 0 || token.length > MAX_TOKEN_LENGTH)
      throw unauthenticated('the token is missing or too long');
    const key = createHash('sha256').update(token).digest('base64');
    const known = this.#verified.get(key);
    if (known && known.expiresAtMs > this.#now()) return known;
    const verified = await this.#verify(token);
    if (this.#verified.size >= REMEMBERED_TOKENS) this.#verified.delete(this.#verified.keys().next().value as string);
    this.#verified.set(key, verified);
    return verified;
  }

  close(): void {
    this.#directory.close();
  }

  async #verify(token: string): Promise<VerifiedToken> {
    let algorithm: string | undefined;
    let issuer: string | undefined;
    try {
      algorithm = decodeProtectedHeader(token).alg;
      issuer = decodeJwt(token).iss;
    } catch {
      throw unauthenticated('the token is not a JWT');
    }
    const currentDate = new Date(this.#now());
    const claimed = {
      currentDate,
      requiredClaims: ['exp', 'sub'],
      ...(this.#config.issuer !== undefined && { issuer: this.#config.issuer }),
      ...(this.#config.audience !== undefined && { audience: this.#config.audience }),
    };
    try {
      if (algorithm === 'HS256') {
        if (!this.#secret) throw unauthenticated('HS256 tokens are not accepted here');
        return identityOf((await jwtVerify(token, this.#secret, { ...claimed, algorithms: ['HS256'] })).payload, true);
      }
      const own = await this.#ownKeys(false);
      if (issuer === own.issuer) return identityOf(await this.#verifyOwn(token, currentDate), false);
      if (!this.#external) throw unauthenticated('the token is from an unknown issuer');
      return identityOf((await jwtVerify(token, this.#external, claimed)).payload, true);
    } catch (error) {
      throw refusal(error);
    }
  }

  async #verifyOwn(token: string, currentDate: Date): Promise<JWTPayload> {
    const options = { currentDate, requiredClaims: ['exp', 'sub'], algorithms: ['EdDSA'] };
    const own = await this.#ownKeys(false);
    try {
      return (await jwtVerify(token, own.keys, { ...options, issuer: own.issuer })).payload;
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey)) throw error;
      // The key may be newer than what is known here.
      const fresh = await this.#ownKeys(true);
      return (await jwtVerify(token, fresh.keys, { ...options, issuer: fresh.issuer })).payload;
    }
  }

  async #ownKeys(afresh: boolean): Promise<OwnKeys> {
    if (!this.#own || (afresh && this.#now() - this.#own.fetchedAtMs > REFETCH_KEYS_MS)) {
      this.#fetching ??= this.#fetchKeys().finally(() => {
        this.#fetching = undefined;
      });
      await this.#fetching;
    }
    return this.#own as OwnKeys;
  }

  async #fetchKeys(): Promise<void> {
    const { jwksJson, issuer } = await this.#directory.getSigningKeys({});
    this.#own = { issuer, keys: createLocalJWKSet(JSON.parse(jwksJson)), fetchedAtMs: this.#now() };
  }
}

function identityOf(payload: JWTPayload, external: boolean): VerifiedToken {
  const { sub, exp, did } = payload;
  const deviceId = did === undefined ? NIL_UUID : did;
  // Under these names the routers keep what is nobody's.
  if (sub === MAX_UUID || deviceId === MAX_UUID) throw unauthenticated('the token names no user or device');
  if (!isUuid(sub)) throw unauthenticated('the token has no sub that is a user_id');
  if (!isUuid(deviceId)) throw unauthenticated('the did of the token is not a device_id');
  return { userId: sub, deviceId, expiresAtMs: (exp as number) * 1000, external };
}

function refusal(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  if (error instanceof errors.JWTExpired) return unauthenticated('the token has expired');
  if (error instanceof errors.JWKSTimeout)
    return new MeshError('unavailable', 'the keys of the token issuer cannot be had');
  if (error instanceof errors.JOSEError) return unauthenticated('the token is not valid');
  return new MeshError('unavailable', 'the keys of the token issuer cannot be had', { cause: error });
}

function unauthenticated(message: string): MeshError {
  return new MeshError('unauthenticated', message);
}
