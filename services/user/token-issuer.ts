import { randomUUID } from 'node:crypto';
import { exportJWK, generateKeyPair, importJWK, type JWK, SignJWT } from 'jose';
import type { SigningKey } from './stores/user-store.js';

/** The value of the iss claim in the mesh's own tokens. */
export const ISSUER = 'chatmesh';
const ALGORITHM = 'EdDSA';

/** A fresh Ed25519 key. */
export async function newSigningKey(nowMs: number): Promise<SigningKey> {
  const { privateKey } = await generateKeyPair(ALGORITHM, { extractable: true });
  const jwk = await exportJWK(privateKey);
  return { id: randomUUID(), privateJwk: JSON.stringify(jwk), createdAtMs: nowMs };
}

/** The JWKS document (RFC 7517) with the public halves. */
export function publicJwks(keys: readonly SigningKey[]): string {
  const publicKeys = keys.map(({ id, privateJwk }) => {
    const { kty, crv, x } = JSON.parse(privateJwk) as JWK;
    return { kty, crv, x, kid: id, alg: ALGORITHM, use: 'sig' };
  });
  return JSON.stringify({ keys: publicKeys });
}

/** Signs the mesh's own tokens with one key. */
export class TokenIssuer {
  readonly #key: Awaited<ReturnType<typeof importJWK>>;
  readonly #keyId: string;

  private constructor(key: Awaited<ReturnType<typeof importJWK>>, keyId: string) {
    this.#key = key;
    this.#keyId = keyId;
  }

  static async create({ id, privateJwk }: SigningKey): Promise<TokenIssuer> {
    return new TokenIssuer(await importJWK(JSON.parse(privateJwk) as JWK, ALGORITHM), id);
  }

  /** A JWT that lets one device of a user in, for `ttlSeconds` from `nowMs` on. */
  sign(who: { userId: string; deviceId: string }, nowMs: number, ttlSeconds: number): Promise<string> {
    const now = Math.floor(nowMs / 1000);
    return new SignJWT({ did: who.deviceId })
      .setProtectedHeader({ alg: ALGORITHM, kid: this.#keyId, typ: 'JWT' })
      .setIssuer(ISSUER)
      .setSubject(who.userId)
      .setIssuedAt(now)
      .setExpirationTime(now + ttlSeconds)
      .sign(this.#key);
  }
}
