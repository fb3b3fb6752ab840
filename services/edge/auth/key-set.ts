import { type Logger, MeshError } from '@chatmesh/mesh';
import { createLocalJWKSet, errors, type JWK, type JWTPayload, type JWTVerifyOptions, jwtVerify } from 'jose';

/** A set is fetched this often, so that a withdrawn key is known well before the ten minutes that the wire contract allows. */
const REFRESH_MS = 5 * 60_000;
/** So soon after an attempt to fetch the set nothing is asked again: tokens of unknown keys cost the issuer one request a second. */
const COOLDOWN_MS = 1_000;
const RETRY_MS = 30_000;
const FETCH_TIMEOUT_MS = 5_000;
const MAX_SET_BYTES = 1024 * 1024;

/** One public key of a set. */
export interface SigningKey {
  /** True once the set was fetched without it: what it signed is no longer accepted. Never goes back. */
  readonly withdrawn: boolean;
}

class Key implements SigningKey {
  readonly id: string | undefined;
  readonly resolve;
  withdrawn = false;

  constructor(jwk: JWK) {
    this.id = jwk.kid;
    this.resolve = createLocalJWKSet({ keys: [jwk] });
  }
}

export interface KeySetOptions {
  /** Gives the set as it is now; rejects when it cannot be had. */
  readonly fetch: () => Promise<readonly JWK[]>;
  readonly logger: Logger;
  /** Called after a refresh that withdrew keys. */
  readonly onWithdrawn?: (() => void) | undefined;
  /** How often the set is fetched once it is used; 5 minutes. */
  readonly refreshMs?: number | undefined;
  /** The least time between two fetches; 1 s. */
  readonly cooldownMs?: number | undefined;
}

/**
 * The public keys of one token issuer, a JWK Set (RFC 7517). Known keys go on being good while the issuer cannot be reached.
 */
export class KeySet {
  readonly #options: KeySetOptions;
  readonly #refreshMs: number;
  readonly #cooldownMs: number;
  /** By the whole key as JSON text: a key that comes back under the same name with another value is another key. */
  #keys: Map<string, Key> | undefined;
  #attemptedAtMs = Number.NEGATIVE_INFINITY;
  #failure: MeshError | undefined;
  #fetching: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: KeySetOptions) {
    this.#options = options;
    this.#refreshMs = options.refreshMs ?? REFRESH_MS;
    this.#cooldownMs = options.cooldownMs ?? COOLDOWN_MS;
  }

  /**
   * Verifies a JWT with the key that it names, or with every key of its algorithm where it names none. A key that is not
   * known is looked for in the set as it is now.
   *
   * @param keyId the `kid` of the token's header
   * @throws MeshError `unavailable` when the key is not known and the set cannot be had, `unauthenticated` when no key fits;
   * JOSEError for claims that do not hold or a wrong signature.
   */
  async verify(
    token: string,
    keyId: string | undefined,
    options: JWTVerifyOptions,
  ): Promise<{ payload: JWTPayload; key: SigningKey }> {
    await this.load();
    let verified = await this.#tryKeys(token, keyId, options);
    if (!verified && (await this.#renew())) verified = await this.#tryKeys(token, keyId, options);
    if (!verified) throw new MeshError('unauthenticated', 'the token is signed by an unknown key');
    return verified;
  }

  /** Resolves when some set is known. @throws MeshError `unavailable` */
  async load(): Promise<void> {
    if (!this.#keys) await this.#renew();
  }

  /** Ends the refreshes. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** Resolves with undefined when the token may be of a key that is not known here. */
  async #tryKeys(token: string, keyId: string | undefined, options: JWTVerifyOptions) {
    let failure: unknown;
    for (const key of this.#keys?.values() ?? []) {
      if (keyId !== undefined && key.id !== keyId) continue;
      try {
        const { payload } = await jwtVerify(token, key.resolve, options);
        return { payload, key };
      } catch (error) {
        if (error instanceof errors.JWSSignatureVerificationFailed) failure = error;
        else if (error instanceof errors.JWKSNoMatchingKey) continue;
        else if (error instanceof errors.JOSEError) throw error;
        // A key that cannot be imported is none.
        else this.#options.logger.warn({ err: error, key: key.id }, 'a key of a token issuer cannot be used');
      }
    }
    if (failure && keyId !== undefined) throw failure;
    return undefined;
  }

  /** Fetches the set unless that was tried just now. Resolves with whether it is another one. @throws MeshError `unavailable` */
  async #renew(): Promise<boolean> {
    if (!this.#fetching && performance.now() - this.#attemptedAtMs < this.#cooldownMs) {
      if (this.#failure) throw this.#failure;
      return false;
    }
    await this.#refresh();
    return true;
  }

  /** Fetches the set; who asks meanwhile waits for the same answer. @throws MeshError `unavailable` */
  #refresh(): Promise<void> {
    this.#fetching ??= this.#fetch().finally(() => {
      this.#fetching = undefined;
      this.#attemptedAtMs = performance.now();
      clearTimeout(this.#timer);
      if (this.#stopped) return;
      const inMs = this.#failure ? Math.min(RETRY_MS, this.#refreshMs) : this.#refreshMs;
      this.#timer = setTimeout(() => this.#refresh().catch(() => {}), inMs).unref();
    });
    return this.#fetching;
  }

  async #fetch(): Promise<void> {
    const { fetch, logger, onWithdrawn } = this.#options;
    let jwks: readonly JWK[];
    try {
      jwks = await fetch();
    } catch (cause) {
      if (!this.#failure) logger.warn({ err: cause }, 'the keys of a token issuer cannot be had; known ones stay good');
      this.#failure = new MeshError('unavailable', 'the keys of the token issuer cannot be had', { cause });
      throw this.#failure;
    }
    this.#failure = undefined;
    const before = this.#keys;
    const texts = new Map(jwks.map((jwk) => [JSON.stringify(jwk), jwk]));
    this.#keys = new Map([...texts].map(([text, jwk]) => [text, before?.get(text) ?? new Key(jwk)]));
    const withdrawn = [...(before ?? [])].filter(([text]) => !texts.has(text));
    for (const [, key] of withdrawn) key.withdrawn = true;
    if (withdrawn.length > 0) onWithdrawn?.();
  }
}

/**
 * Fetches a JWK Set. Nothing but JSON of that shape with status 200 is one: an error page or a redirect says nothing about keys.
 *
 * @throws Error naming what came instead, within 5 s.
 */
export async function fetchKeys(url: string): Promise<readonly JWK[]> {
  const response = await fetch(url, {
    headers: { accept: 'application/jwk-set+json, application/json' },
    redirect: 'manual',
    signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
  });
  if (response.status !== 200) {
    await response.body?.cancel();
    throw new Error(`the issuer answered ${response.status}`);
  }
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > MAX_SET_BYTES) throw new Error('the issuer answered with more than 1 MiB');
    chunks.push(chunk);
  }
  return keysOf(Buffer.concat(chunks).toString());
}

/** The keys of a JWK Set. @throws Error when the text is none. */
export function keysOf(text: string): readonly JWK[] {
  let set: { keys?: unknown } | null;
  try {
    set = JSON.parse(text);
  } catch {
    throw new Error('the answer is not JSON');
  }
  if (!Array.isArray(set?.keys) || !set.keys.every((key) => typeof key === 'object' && key !== null))
    throw new Error('the answer is not a JWK Set');
  return set.keys;
}
