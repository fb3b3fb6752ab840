import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';
import { WebSocket } from 'ws';
import { WireClient } from '../client.js';
import { LocalMesh } from '../local-mesh.js';
import { type TestUser, until } from '../mesh.js';

const ISSUER = 'https://accounts.example';
const AUDIENCE = 'chatmesh';
const ALGORITHM = 'ES256';

type Pair = Awaited<ReturnType<typeof generateKeyPair>>;

/** The issuer's server: its answer is what a test says. */
class KeyServer {
  answer: { status?: number; type?: string; body: string; location?: string } = { body: '{"keys":[]}' };
  asked = 0;
  readonly #server = createServer((_request, response) => {
    this.asked++;
    const { status = 200, type = 'application/json', body, location } = this.answer;
    response.writeHead(status, { 'content-type': type, ...(location !== undefined && { location }) }).end(body);
  });

  static async start(): Promise<KeyServer> {
    const keyServer = new KeyServer();
    keyServer.#server.listen(0, '127.0.0.1');
    await once(keyServer.#server, 'listening');
    return keyServer;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/keys`;
  }

  async publish(...keys: { pair: Pair; kid?: string }[]): Promise<void> {
    const jwks = keys.map(async ({ pair, kid }) => ({
      ...(await exportJWK(pair.publicKey)),
      alg: ALGORITHM,
      ...(kid !== undefined && { kid }),
    }));
    this.answer = { body: JSON.stringify({ keys: await Promise.all(jwks) }) };
  }

  [Symbol.dispose](): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}

interface Claims {
  readonly sub?: string;
  readonly did?: string;
  readonly issuer?: string;
  readonly audience?: string;
  /** Seconds from now. */
  readonly exp?: number;
  readonly nbf?: number;
  readonly iat?: number;
  /** undefined: without. */
  readonly kid?: string | undefined;
}

function sign(pair: Pair, claims: Claims = {}): Promise<string> {
  const at = (seconds: number) => Math.floor(Date.now() / 1000) + seconds;
  const { kid } = 'kid' in claims ? claims : { kid: 'one' };
  const jwt = new SignJWT({ did: claims.did ?? randomUUID() })
    .setProtectedHeader({ alg: ALGORITHM, ...(kid !== undefined && { kid }) })
    .setSubject(claims.sub ?? randomUUID())
    .setIssuer(claims.issuer ?? ISSUER)
    .setAudience(claims.audience ?? AUDIENCE)
    .setExpirationTime(at(claims.exp ?? 3600));
  if (claims.nbf !== undefined) jwt.setNotBefore(at(claims.nbf));
  if (claims.iat !== undefined) jwt.setIssuedAt(at(claims.iat));
  return jwt.sign(pair.privateKey);
}

/** What the upgrade with a token is answered: 101, or the status and the code of the body. */
async function verdict(mesh: LocalMesh, token: string): Promise<unknown> {
  const user: TestUser = { userId: '', deviceId: '', contactNumber: '', token };
  try {
    await (await WireClient.connect(mesh.url, user)).close();
    return 101;
  } catch (error) {
    const { status, body } = error as { status: number; body: string };
    return [status, JSON.parse(body).error.code];
  }
}

const UNAUTHENTICATED = [401, 'unauthenticated'];
const UNAVAILABLE = [503, 'unavailable'];

/** Tokens minted elsewhere: AUTH_JWKS_URL, AUTH_ISSUER and AUTH_AUDIENCE. */
describe('tokens of an issuer behind AUTH_JWKS_URL', () => {
  let mesh: LocalMesh;
  let keyServer: KeyServer;
  let published: Pair;
  let unpublished: Pair;

  beforeAll(async () => {
    published = await generateKeyPair(ALGORITHM);
    unpublished = await generateKeyPair(ALGORITHM);
    keyServer = await KeyServer.start();
    await keyServer.publish({ pair: published, kid: 'one' });
    mesh = await LocalMesh.start({
      env: { AUTH_JWKS_URL: keyServer.url, AUTH_ISSUER: ISSUER, AUTH_AUDIENCE: AUDIENCE },
    });
  }, 400_000);
  afterAll(async () => {
    keyServer?.[Symbol.dispose]();
    await mesh?.[Symbol.asyncDispose]();
  });

  test('are accepted, and an unknown sub becomes a user that others can write to', async () => {
    const [ada] = (await mesh.users(1)) as [TestUser];
    const sub = randomUUID();
    const token = await sign(published, { sub });
    const stranger = await WireClient.connect(mesh.url, { userId: sub, deviceId: '', contactNumber: '', token });
    const a = await WireClient.connect(mesh.url, ada);
    await a.answer(a.message(sub, 'welcome'));
    const message = await stranger.frame((f) => f.content === 'welcome');
    expect(message.sender_id).toBe(ada.userId);
  });

  test.each<[string, Claims & { forged?: boolean }]>([
    ['another issuer', { issuer: 'https://elsewhere.example' }],
    ['another audience', { audience: 'another-service' }],
    ['an expiry in the past', { exp: -60 }],
    ['an expiry just beyond the leeway', { exp: -12 }],
    ['a beginning in the future', { nbf: 60 }],
    ['an issue in the future', { iat: 60 }],
    ['a key that is not published, under a published name', { forged: true }],
    ['a key whose name is not published', { forged: true, kid: 'two' }],
    ['a key that is not published, and no name', { forged: true, kid: undefined }],
  ])('with %s are 401', async (_what, { forged, ...claims }) => {
    expect(await verdict(mesh, await sign(forged ? unpublished : published, claims))).toEqual(UNAUTHENTICATED);
  });

  test.each<[string, Claims]>([
    ['exp', { exp: -6 }],
    ['nbf', { nbf: 8 }],
    ['iat', { iat: 8 }],
  ])('%s has a leeway of 10 s', async (_claim, claims) => {
    expect(await verdict(mesh, await sign(published, claims))).toBe(101);
  });

  test('an Authorization header of another scheme is passed over: the token of the subprotocol counts', async () => {
    const token = await sign(published);
    const socket = new WebSocket(mesh.url, ['chatmesh.v1', `bearer.${token}`], {
      headers: { authorization: 'Basic Z3JhY2U6aG9wcGVy' },
    });
    await once(socket, 'open');
    expect(socket.protocol).toBe('chatmesh.v1');
    socket.close();
  });
});

describe("the issuer's set of keys", () => {
  /** A mesh of its own for each: what it knows of keys is what matters. */
  async function withMesh(
    use: (mesh: LocalMesh, keyServer: KeyServer) => Promise<void>,
    options: { keyRefreshMs?: number } = {},
  ): Promise<void> {
    using keyServer = await KeyServer.start();
    await using mesh = await LocalMesh.start({ env: { AUTH_JWKS_URL: keyServer.url }, edge: options });
    await use(mesh, keyServer);
  }

  const outages: [string, KeyServer['answer']][] = [
    ['503', { status: 503, body: 'Service Unavailable' }],
    ['500 with JSON', { status: 500, body: '{"keys":[]}' }],
    ['429', { status: 429, body: '' }],
    ['an HTML page', { type: 'text/html', body: '<html>maintenance</html>' }],
    ['a redirect', { status: 302, location: '/login', body: '' }],
    ['JSON of another shape', { body: '{"error":"try later"}' }],
  ];

  test('an outage of the issuer is no bad token: 503 while no key is known, and known keys go on', async () => {
    await withMesh(
      async (mesh, keyServer) => {
        const pair = await generateKeyPair(ALGORITHM);
        for (const [what, answer] of outages) {
          keyServer.answer = answer;
          expect([what, await verdict(mesh, await sign(pair))]).toEqual([what, UNAVAILABLE]);
        }
        await keyServer.publish({ pair, kid: 'one' });
        await until(async () => (await verdict(mesh, await sign(pair))) === 101, { what: 'the keys' });
        for (const [what, answer] of outages) {
          keyServer.answer = answer;
          const { asked } = keyServer;
          await until(() => keyServer.asked > asked + 1, { what: 'refreshes that fail' });
          expect([what, await verdict(mesh, await sign(pair))]).toEqual([what, 101]);
          expect([what, await verdict(mesh, await sign(pair, { kid: 'newer' }))]).toEqual([what, UNAVAILABLE]);
        }
      },
      { keyRefreshMs: 20 },
    );
  });

  test('a token without kid is tried against every key of its algorithm', async () => {
    await withMesh(async (mesh, keyServer) => {
      const [one, two, other] = [
        await generateKeyPair(ALGORITHM),
        await generateKeyPair(ALGORITHM),
        await generateKeyPair(ALGORITHM),
      ];
      await keyServer.publish({ pair: one }, { pair: two });
      expect(await verdict(mesh, await sign(two, { kid: undefined }))).toBe(101);
      expect(await verdict(mesh, await sign(one, { kid: undefined }))).toBe(101);
      expect(await verdict(mesh, await sign(other, { kid: undefined }))).toEqual(UNAUTHENTICATED);
    });
  });

  test('a key that is newer than the set is found', async () => {
    await withMesh(async (mesh, keyServer) => {
      const [one, two] = [await generateKeyPair(ALGORITHM), await generateKeyPair(ALGORITHM)];
      await keyServer.publish({ pair: one, kid: 'one' });
      expect(await verdict(mesh, await sign(one))).toBe(101);
      await keyServer.publish({ pair: one, kid: 'one' }, { pair: two, kid: 'two' });
      await until(async () => (await verdict(mesh, await sign(two, { kid: 'two' }))) === 101, { what: 'the new key' });
    });
  });

  test('a key that has left the set ends what it signed: verified tokens and open connections', async () => {
    await withMesh(
      async (mesh, keyServer) => {
        const [one, two] = [await generateKeyPair(ALGORITHM), await generateKeyPair(ALGORITHM)];
        await keyServer.publish({ pair: one, kid: 'one' }, { pair: two, kid: 'two' });
        const connect = async (token: string) =>
          WireClient.connect(mesh.url, { userId: '', deviceId: '', contactNumber: '', token });
        const withdrawn = await sign(one);
        const first = await connect(withdrawn);
        const second = await connect(await sign(two, { kid: 'two' }));
        await keyServer.publish({ pair: two, kid: 'two' });
        expect(await first.closed()).toBe(4401);
        expect(await verdict(mesh, withdrawn)).toEqual(UNAUTHENTICATED);
        expect(second.closeCode).toBeUndefined();
        await second.close();
      },
      { keyRefreshMs: 20 },
    );
  });

  test('tokens of unknown keys do not make the mesh ask the issuer for each', async () => {
    await withMesh(async (mesh, keyServer) => {
      const [one, other] = [await generateKeyPair(ALGORITHM), await generateKeyPair(ALGORITHM)];
      await keyServer.publish({ pair: one, kid: 'one' });
      const startedMs = performance.now();
      for (let i = 0; i < 40; i++)
        expect(await verdict(mesh, await sign(other, { kid: `unknown ${i}` }))).toEqual(UNAUTHENTICATED);
      expect(keyServer.asked).toBeLessThanOrEqual(2 + (performance.now() - startedMs) / 1000);
    });
  });
});
