import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createPlainServer, type IncomingMessage, type RequestListener } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PulsarAdmin } from '@chatmesh/mesh/pulsar';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { Authority } from '../certificates.js';

const TOPIC = 'persistent://chatmesh/mesh/events';

let directory: string;
let authority: Authority;
const stops: (() => void)[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-pulsar-admin-'));
  authority = new Authority(directory, 'brokers');
});
afterEach(() => {
  for (const stop of stops.splice(0)) stop();
  rmSync(directory, { recursive: true, force: true });
});

/** A broker's HTTP interface over TLS, with a certificate that no system knows. */
async function broker(listener: RequestListener): Promise<{ url: string; asked: IncomingMessage[] }> {
  const { certFile, keyFile } = authority.issue('IP:127.0.0.1');
  const asked: IncomingMessage[] = [];
  const server = createServer({ cert: readFileSync(certFile), key: readFileSync(keyFile) }, (request, response) => {
    asked.push(request);
    listener(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stops.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

describe("Pulsar's admin interface", () => {
  test('over TLS is believed by the authority of PULSAR_TLS_CA, and by no other', async () => {
    const { url } = await broker((_, response) => response.end('{"subscriptions":{"routers":{"msgBacklog":7}}}'));
    const ours = new PulsarAdmin({ url, token: undefined, tlsCaFile: authority.caFile });
    expect(await ours.backlog(TOPIC, 'routers')).toBe(7);
    const stranger = new PulsarAdmin({ url, token: undefined });
    await expect(stranger.backlog(TOPIC, 'routers')).rejects.toMatchObject({
      kind: 'failed_precondition',
      message: expect.stringContaining('shows a certificate that PULSAR_TLS_CA does not vouch for'),
    });
  });

  test('that speaks no TLS is told by the URL to mend, and a page of HTML is not repeated', async () => {
    const { url } = await broker((_, response) =>
      response.writeHead(404).end('<html>\n<h1>Nothing here</h1>\n</html>'),
    );
    const plain = createPlainServer().listen(0, '127.0.0.1');
    await once(plain, 'listening');
    stops.push(() => plain.close());
    const { port } = plain.address() as AddressInfo;
    const said = (url: string) => {
      const admin = new PulsarAdmin({ url, token: undefined, tlsCaFile: authority.caFile });
      return admin.backlog(TOPIC, 'routers').catch(({ message }) => message);
    };
    expect(await said(`https://127.0.0.1:${port}`)).toMatch(/ does not speak TLS: set PULSAR_ADMIN_URL to its http:/);
    expect(await said(url)).toMatch(/ refuses GET \S+ with 404$/);
  });

  test('a file of authorities that cannot be read is named', () => {
    expect(() => new PulsarAdmin({ url: 'https://x', token: undefined, tlsCaFile: '/no/ca.pem' })).toThrow(
      /PULSAR_TLS_CA=\/no\/ca\.pem cannot be read/,
    );
  });

  test('a broker that names another one is followed, with the token and what was asked', async () => {
    const bodies: string[] = [];
    const owner = await broker(async (request, response) => {
      bodies.push((await request.setEncoding('utf8').toArray()).join(''));
      response.end(request.method === 'GET' ? '{"partitions":12}' : '');
    });
    const other = await broker((request, response) => {
      request.resume();
      response.writeHead(307, { location: owner.url + request.url }).end();
    });
    const admin = new PulsarAdmin({ url: other.url, token: 'secret', tlsCaFile: authority.caFile });
    expect(await admin.prepareTopic(TOPIC, { partitions: 12, subscription: 'routers' })).toBe(12);
    expect(owner.asked.map(({ method }) => method)).toEqual(['PUT', 'PUT', 'GET']);
    expect(owner.asked.map(({ headers }) => headers.authorization)).toEqual(Array(3).fill('Bearer secret'));
    expect(bodies[0]).toBe('12');
  });

  test('brokers that name each other for ever are given up', async () => {
    const round = await broker((request, response) => {
      request.resume();
      response.writeHead(307, { location: request.url as string }).end();
    });
    const admin = new PulsarAdmin({ url: round.url, token: undefined, tlsCaFile: authority.caFile });
    await expect(admin.backlog(TOPIC, 'routers')).rejects.toMatchObject({ kind: 'failed_precondition' });
  });

  test('an answer that breaks off is unavailable', async () => {
    const half = await broker((_, response) => {
      response.writeHead(200, { 'content-length': '1000' });
      response.write('{"subscriptions":');
      setImmediate(() => response.destroy());
    });
    const admin = new PulsarAdmin({ url: half.url, token: undefined, tlsCaFile: authority.caFile });
    await expect(admin.backlog(TOPIC, 'routers')).rejects.toMatchObject({ kind: 'unavailable' });
  });
});
