import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import type { TestUser } from '../mesh.js';

const ISSUER = 'https://accounts.example';
const AUDIENCE = 'chatmesh';
const ALGORITHM = 'ES256';

/** Tokens minted elsewhere: AUTH_JWKS_URL, AUTH_ISSUER and AUTH_AUDIENCE. */
describe('tokens of an issuer behind AUTH_JWKS_URL', () => {
  let mesh: LocalMesh;
  let keyServer: Server;
  let published: CryptoKey;
  let unpublished: CryptoKey;

  beforeAll(async () => {
    const pair = await generateKeyPair(ALGORITHM);
    published = pair.privateKey;
    unpublished = (await generateKeyPair(ALGORITHM)).privateKey;
    const key = { ...(await exportJWK(pair.publicKey)), kid: 'one', alg: ALGORITHM };
    keyServer = createServer((_request, response) => {
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ keys: [key] }));
    }).listen(0, '127.0.0.1');
    await once(keyServer, 'listening');
    const { port } = keyServer.address() as AddressInfo;
    mesh = await LocalMesh.start({
      env: { AUTH_JWKS_URL: `http://127.0.0.1:${port}/keys`, AUTH_ISSUER: ISSUER, AUTH_AUDIENCE: AUDIENCE },
    });
  }, 400_000);
  afterAll(async () => {
    keyServer?.close();
    keyServer?.closeAllConnections();
    await mesh?.[Symbol.asyncDispose]();
  });

  interface Claims {
    readonly issuer?: string;
    readonly audience?: string;
    readonly expiresAt?: string;
    readonly key?: CryptoKey;
    readonly kid?: string;
  }

  async function connect(claims: Claims): Promise<WireClient> {
    const userId = randomUUID();
    const token = await new SignJWT({ did: randomUUID() })
      .setProtectedHeader({ alg: ALGORITHM, kid: claims.kid ?? 'one' })
      .setSubject(userId)
      .setIssuer(claims.issuer ?? ISSUER)
      .setAudience(claims.audience ?? AUDIENCE)
      .setExpirationTime(claims.expiresAt ?? '1h')
      .sign(claims.key ?? published);
    const user: TestUser = { userId, deviceId: '', contactNumber: '', token };
    return await WireClient.connect(mesh.url, user);
  }

  test('are accepted, and an unknown sub becomes a user that others can write to', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const stranger = await connect({});
    const a = await WireClient.connect(mesh.url, ada);
    await a.answer(a.message(stranger.user, 'welcome'));
    const message = await stranger.frame((f) => f.content === 'welcome');
    expect(message.sender_id).toBe(ada.userId);
  });

  test.each<[string, () => Claims]>([
    ['another issuer', () => ({ issuer: 'https://elsewhere.example' })],
    ['another audience', () => ({ audience: 'another-service' })],
    ['an expiry in the past', () => ({ expiresAt: '-1m' })],
    ['a key that is not published, under a published name', () => ({ key: unpublished })],
    ['a key whose name is not published', () => ({ key: unpublished, kid: 'two' })],
  ])('with %s are 401', async (_what, claims) => {
    const refused = await connect(claims()).then(
      () => undefined,
      (error) => [error.status, JSON.parse(error.body).error.code],
    );
    expect(refused).toEqual([401, 'unauthenticated']);
  });
});
