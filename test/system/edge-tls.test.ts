import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect as connectHttp2 } from 'node:http2';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { afterAll, beforeAll, describe, test } from '@jest/globals';
import { Authority } from '../certificates.js';
import { LocalMesh } from '../local-mesh.js';
import { until } from '../mesh.js';
import { RawHttp } from '../raw-http.js';

describe('the edge with certificates of its own', () => {
  const directory = mkdtempSync(join(tmpdir(), 'chatmesh-edge-tls-'));
  let mesh: LocalMesh;
  let ca: Buffer;
  beforeAll(async () => {
    const { certFile, keyFile, caFile } = new Authority(directory, 'edge').issue('DNS:localhost');
    ca = readFileSync(caFile);
    mesh = await LocalMesh.start({
      env: { EDGE_TLS_CERT: certFile, EDGE_TLS_KEY: keyFile },
      edge: { patience: { headersMs: 500, requestMs: 700 } },
    });
  }, 400_000);
  afterAll(async () => {
    await mesh?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  const ports = (): [string, number, string[]][] => [
    ['HTTP/1.1', mesh.edge.port, ['http/1.1']],
    ['HTTP/1.1 on the port of HTTP/2', mesh.edge.h2Port, ['http/1.1']],
    ['HTTP/2', mesh.edge.h2Port, ['h2']],
  ];

  test('a handshake that is never finished, and a client that says nothing after it, end', async () => {
    for (const [what, port, protocols] of ports()) {
      using unfinished = new RawHttp(port);
      await until(() => unfinished.closed, { what: `the end of a handshake, ${what}` });
      const silent = connect({ port, servername: 'localhost', ca, ALPNProtocols: protocols }).on('error', () => {});
      silent.resume();
      await until(() => silent.destroyed, { what: `the end of a silent client, ${what}` });
    }
  });

  test('an Upgrade header of another protocol is ignored', async () => {
    for (const [, port, protocols] of ports().slice(0, 2)) {
      const client = connect({ port, servername: 'localhost', ca, ALPNProtocols: protocols });
      let text = '';
      client.setEncoding('latin1').on('data', (part: string) => {
        text += part;
      });
      const request = 'GET /connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n';
      client.write(request);
      await until(() => /^HTTP\/1.1 426 .*"}}/s.test(text), { what: () => `an answer; there is ${text}` });
      client.write(request);
      await until(() => text.match(/HTTP\/1.1 426/g)?.length === 2, { what: () => `another; there is ${text}` });
      client.destroy();
    }
  });

  test('health is served over HTTP/2', async () => {
    const session = connectHttp2(`https://localhost:${mesh.edge.h2Port}`, { ca });
    const headers = { ':method': 'POST', ':path': '/grpc.health.v1.Health/Check', 'content-type': 'application/json' };
    const stream = session.request(headers);
    let text = '';
    stream.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
    stream.end('{}');
    await until(() => text === '{"status":"SERVING"}', { what: () => `the status; there is ${text}` });
    session.destroy();
  });
});
