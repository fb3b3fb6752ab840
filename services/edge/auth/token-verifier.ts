import { createHash } from 'node:crypto';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, type Logger, MeshError, type MeshTls } from '@chatmesh/mesh';
import { decodeJwt, decodeProtectedHeader, errors, type JWTPayload, type JWTVerifyOptions, jwtVerify } from 'jose';
import type { AuthConfig } from '../config.js';
import { isUuid } from '../domain/frames.js';
import type { Identity } from '../sessions/session.js';
import { fetchKeys, KeySet, keysOf, type SigningKey } from './key-set.js';

/** A verified token. */
export interface VerifiedToken extends Identity {
  /** True when another issuer than the mesh's own signed it: it may name a user that does not exist yet. */
  readonly external: boolean;
}

const MAX_UUID = 'ffffffff-ffff-ffff-ffff-ffffffffffff';
const NIL_UUID = '00000000-0000-0000-0000-000000000000';
const MAX_TOKEN_LENGTH = 8192;
/** Verified tokens are remembered, so that a unary call does not pay for a signature each time. */
const REMEMBERED_TOKENS = 20_000;
/** How far `exp`, `nbf` and `iat` may be off, for clocks differ. */
const LEEWAY_SECONDS = 10;

export interface TokenVerifierOptions {
  readonly config: AuthConfig;
  readonly userAddress: string;
  readonly logger: Logger;
  readonly tls?: MeshTls | undefined;
  /** Wall-clock time, milliseconds since 1970. */
  readonly now: () => number;
  /** Called when keys have left their set: what they signed is over. */
  readonly onWithdrawn: () => void;
  /** How often sets of keys are fetched. */
  readonly keyRefreshMs?: number | undefined;
}

/** Verifies tokens of the mesh's own issuer, of the issuer behind a JWKS URL, and of a shared secret, where configured. */
export class TokenVerifier {
  readonly #config: AuthConfig;
  readonly #directory;
  readonly #own: KeySet;
  readonly #external: KeySet | undefined;
  readonly #secret: Uint8Array | undefined;
  readonly #now: () => number;
  readonly #verified = new Map<string, VerifiedToken>();
  #ownIssuer: string | undefined;

  constructor(options: TokenVerifierOptions) {
    const { config, logger, tls, onWithdrawn, keyRefreshMs } = options;
    const { jwksUrl, hs256Secret } = config;
    this.#config = config;
    this.#now = options.now;
    this.#directory = createClient(DirectoryService, { address: options.userAddress, logger, tls });
    const common = { logger, onWithdrawn, refreshMs: keyRefreshMs };
    this.#own = new KeySet({ ...common, fetch: () => this.#fetchOwnKeys() });
    this.#external = jwksUrl ? new KeySet({ ...common, fetch: () => fetchKeys(jwksUrl) }) : undefined;
    this.#secret = hs256Secret ? new TextEncoder().encode(hs256Secret) : undefined;
  }

  /**
   * Verifies signature, issuer, audience and times.
   *
   * @throws MeshError `unauthenticated` for anything wrong with the token, `unavailable` when the keys cannot be had.
   */
  async verify(token: string): Promise<VerifiedToken> {
    if (token.length === 0 || token.length > MAX_TOKEN_LENGTH)
      throw unauthenticated('the token is missing or too long');
    const hash = createHash('sha256').update(token).digest('base64');
    const known = this.#verified.get(hash);
    if (known && known.expiresAtMs > this.#now() && !known.signedBy?.withdrawn) return known;
    const verified = await this.#verify(token);
    if (this.#verified.size >= REMEMBERED_TOKENS) this.#verified.delete(this.#verified.keys().next().value as string);
    this.#verified.set(hash, verified);
    return verified;
  }

  close(): void {
    this.#own.stop();
    this.#external?.stop();
    this.#directory.close();
  }

  async #verify(token: string): Promise<VerifiedToken> {
    let algorithm: string | undefined;
    let keyId: string | undefined;
    let issuer: string | undefined;
    try {
      ({ alg: algorithm, kid: keyId } = decodeProtectedHeader(token));
      issuer = decodeJwt(token).iss;
    } catch {
      throw unauthenticated('the token is not a JWT');
    }
    const nowMs = this.#now();
    const common = { currentDate: new Date(nowMs), clockTolerance: LEEWAY_SECONDS, requiredClaims: ['exp', 'sub'] };
    const claimed: JWTVerifyOptions = {
      ...common,
      ...(this.#config.issuer !== undefined && { issuer: this.#config.issuer }),
      ...(this.#config.audience !== undefined && { audience: this.#config.audience }),
    };
    try {
      if (algorithm === 'HS256') {
        if (!this.#secret) throw unauthenticated('HS256 tokens are not accepted here');
        const { payload } = await jwtVerify(token, this.#secret, { ...claimed, algorithms: ['HS256'] });
        return verifiedToken(payload, { external: true, nowMs });
      }
      await this.#own.load();
      if (issuer === this.#ownIssuer) {
        const { payload, key } = await this.#own.verify(token, keyId, { ...common, algorithms: ['EdDSA'] });
        return verifiedToken(payload, { external: false, nowMs, signedBy: key });
      }
      if (!this.#external) throw unauthenticated('the token is from an unknown issuer');
      const { payload, key } = await this.#external.verify(token, keyId, claimed);
      return verifiedToken(payload, { external: true, nowMs, signedBy: key });
    } catch (error) {
      throw refusal(error);
    }
  }

  async #fetchOwnKeys() {
    const { jwksJson, issuer } = await this.#directory.getSigningKeys({});
    this.#ownIssuer = issuer;
    return keysOf(jwksJson);
  }
}

/** What a payload says whose signature, issuer and times were verified, but for `iat`. @throws MeshError `unauthenticated` */
function verifiedToken(
  { sub, exp, iat, did }: JWTPayload,
  { nowMs, ...about }: { external: boolean; nowMs: number; signedBy?: SigningKey },
): VerifiedToken {
  const deviceId = did === undefined ? NIL_UUID : did;
  // Under these names the routers keep what is nobody's.
  if (sub === MAX_UUID || deviceId === MAX_UUID) throw unauthenticated('the token names no user or device');
  if (!isUuid(sub)) throw unauthenticated('the token has no sub that is a user_id');
  if (!isUuid(deviceId)) throw unauthenticated('the did of the token is not a device_id');
  if (iat !== undefined && iat * 1000 > nowMs + LEEWAY_SECONDS * 1000)
    throw unauthenticated('the token is issued in the future');
  const expiryMs = (exp as number) * 1000;
  // A connection ends with its token. The leeway is for a token that comes when it has just expired by this clock.
  const expiresAtMs = expiryMs > nowMs ? expiryMs : expiryMs + LEEWAY_SECONDS * 1000;
  return { userId: sub, deviceId, expiresAtMs, ...about };
}

function refusal(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  if (error instanceof errors.JWTExpired) return unauthenticated('the token has expired');
  if (error instanceof errors.JOSEError) return unauthenticated('the token is not valid');
  return new MeshError('unavailable', 'the keys of the token issuer cannot be had', { cause: error });
}

function unauthenticated(message: string): MeshError {
  return new MeshError('unauthenticated', message);
}
