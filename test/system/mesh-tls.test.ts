import { execFile } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AdminService } from '@chatmesh/gen/chat/v1/admin';
import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { RouterService } from '@chatmesh/gen/chat/v1/router';
import { SessionService } from '@chatmesh/gen/presence/v1/session';
import { AdminService as UserAdminService } from '@chatmesh/gen/user/v1/admin';
import { ContactService } from '@chatmesh/gen/user/v1/contact';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import {
  createClient,
  createLogger,
  GrpcServer,
  MeshTls,
  Metrics,
  type ServiceImpl,
  type TlsFiles,
} from '@chatmesh/mesh';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { freePorts } from '#engines';
import { Authority, replaceFiles } from '../certificates.js';
import { MeshProcess, SERVICES, until } from '../mesh.js';

const logger = createLogger({ name: 'test', level: 'silent' });
const cli = fileURLToPath(new URL('../../../packages/cli/bin/chatmesh.js', import.meta.url));
const LOOK_MS = 20;

let directory: string;
let authority: Authority;
let open: { close(): unknown }[] = [];

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'chatmesh-tls-'));
  authority = new Authority(directory, 'mesh');
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));
afterEach(async () => {
  for (const { close } of open.reverse()) await close();
  open = [];
});
const keep = <T extends { close(): unknown }>(thing: T): T => {
  open.push({ close: () => thing.close() });
  return thing;
};
const tlsOf = (files: TlsFiles): MeshTls => keep(MeshTls.open(files, { logger, lookMs: LOOK_MS }));

/** A server of every internal service, which answers every call with nothing. */
async function serve(tls: MeshTls | undefined): Promise<string> {
  const answers = <S>(): S => new Proxy({}, { get: () => async () => ({}) }) as S;
  const server = new GrpcServer({ name: 'test', logger, metrics: new Metrics({ processMetrics: false }), tls })
    .add(RouterService, {
      route(call) {
        call.onMessage(({ sequence }) => call.write({ confirmedSequence: sequence }));
        call.onClose(() => {});
      },
    })
    .add(AdminService, answers<ServiceImpl<typeof AdminService>>())
    .add(UserAdminService, answers<ServiceImpl<typeof UserAdminService>>())
    .add(InternalChatService, answers<ServiceImpl<typeof InternalChatService>>())
    .add(DirectoryService, answers<ServiceImpl<typeof DirectoryService>>())
    .add(ContactService, answers<ServiceImpl<typeof ContactService>>())
    .add(SessionService, answers<ServiceImpl<typeof SessionService>>());
  keep(server);
  return `127.0.0.1:${await server.listen({ host: '127.0.0.1', port: 0, variable: 'TEST_PORT' })}`;
}

/** What becomes of a call of each service: `ok` or the kind of its failure. */
async function callsOf(address: string, tls: MeshTls | undefined): Promise<Record<string, string>> {
  const options = { address, tls, logger };
  const chat = keep(createClient(InternalChatService, options));
  const admin = keep(createClient(AdminService, options));
  const userAdmin = keep(createClient(UserAdminService, options));
  const users = keep(createClient(DirectoryService, options));
  const contacts = keep(createClient(ContactService, options));
  const presence = keep(createClient(SessionService, options));
  const router = keep(createClient(RouterService, options));
  const userId = '6ba7b810-9dad-41d1-80b4-00c04fd430c8';
  const ended = (call: Promise<unknown>) =>
    call.then(
      () => 'ok',
      (error: { kind: string }) => error.kind,
    );
  const routed = () =>
    new Promise<void>((resolve, reject) => {
      const call = router.route();
      call.onMessage(() => resolve());
      call.onClose((error) => (error ? reject(error) : resolve()));
      call.write({ sequence: 1 });
    });
  return {
    router: await ended(routed()),
    internal: await ended(chat.listInbox({ userId })),
    admin: await ended(admin.listDeadLetters({})),
    userAdmin: await ended(userAdmin.setSuspended({ userId })),
    directory: await ended(users.getSigningKeys({})),
    contacts: await ended(contacts.listContacts({})),
    presence: await ended(presence.listSessions({})),
  };
}

describe('who may call what', () => {
  const all = ['DNS:chat', 'DNS:user', 'DNS:presence'];
  const denied = 'permission_denied';

  test.each([
    ['DNS:edge', { router: 'ok', internal: 'ok', directory: 'ok', contacts: 'ok', presence: 'ok' }],
    ['DNS:edge.chatmesh.svc', { router: 'ok', internal: 'ok', directory: 'ok', contacts: 'ok', presence: 'ok' }],
    ['URI:spiffe://chatmesh/edge', { router: 'ok', internal: 'ok', directory: 'ok', contacts: 'ok', presence: 'ok' }],
    ['DNS:chat', { router: denied, internal: denied, directory: 'ok', contacts: 'ok', presence: 'ok' }],
    ['DNS:backend', { router: denied, internal: 'ok', directory: denied, contacts: denied, presence: denied }],
    ['DNS:admin', { router: denied, internal: 'ok', directory: 'ok', contacts: denied, presence: denied }],
    ['DNS:user', { router: denied, internal: denied, directory: denied, contacts: denied, presence: denied }],
    ['DNS:other.edge', { router: denied, internal: denied, directory: denied, contacts: denied, presence: denied }],
  ])('%s', async (name, expected) => {
    const address = await serve(tlsOf(authority.issue(...all)));
    const byOperators = name === 'DNS:admin' ? 'ok' : denied;
    const admin = { admin: byOperators, userAdmin: byOperators };
    expect(await callsOf(address, tlsOf(authority.issue(name)))).toEqual({ ...expected, ...admin });
  });

  test('nobody without a certificate of the mesh, and nobody in plain text', async () => {
    const address = await serve(tlsOf(authority.issue(...all)));
    const nothing = { router: 'unavailable', internal: 'unavailable', directory: 'unavailable' };
    const stranger = { ...new Authority(directory, 'elsewhere').issue('DNS:edge'), caFile: authority.caFile };
    expect(await callsOf(address, tlsOf(stranger))).toMatchObject(nothing);
    expect(await callsOf(address, undefined)).toMatchObject(nothing);
  });

  test('a server that has the name of another service gets no call', async () => {
    const address = await serve(tlsOf(authority.issue('DNS:user')));
    expect(await callsOf(address, tlsOf(authority.issue('DNS:edge')))).toEqual({
      router: 'unavailable',
      internal: 'unavailable',
      admin: 'unavailable',
      userAdmin: denied,
      directory: 'ok',
      contacts: 'ok',
      presence: 'unavailable',
    });
  });
});

describe('files that cannot be used', () => {
  test('are named at the start, and missed by nobody later', async () => {
    const [one, other] = [authority.issue('DNS:edge'), authority.issue('DNS:chat')];
    expect(() => MeshTls.open({ ...one, caFile: '/no/ca.pem' }, { logger })).toThrow(/MESH_TLS_CA.*\/no\/ca\.pem/);
    expect(() => MeshTls.open({ ...one, keyFile: other.keyFile }, { logger })).toThrow(/key values mismatch/);
  });
});

test('certificates and authorities are renewed under load, without a call or a stream that fails', async () => {
  const renewed = new Authority(directory, 'renewed');
  const copies = (name: string, files: TlsFiles): TlsFiles => {
    const copy = {
      certFile: join(directory, `${name}.crt`),
      keyFile: join(directory, `${name}.key`),
      caFile: join(directory, `${name}.ca`),
    };
    for (const key of ['certFile', 'keyFile', 'caFile'] as const) copyFileSync(files[key], copy[key]);
    return copy;
  };
  const names = ['DNS:chat', 'DNS:user', 'DNS:presence'];
  const [before, after] = [authority.issue('DNS:edge'), renewed.issue('DNS:edge')];
  const [serverFiles, clientFiles] = [copies('server', authority.issue(...names)), copies('client', before)];
  const address = await serve(tlsOf(serverFiles));
  const tls = tlsOf(clientFiles);
  const fresh = async (files: TlsFiles) => (await callsOf(address, tlsOf(files))).directory;

  // The load: a stream that was opened before, and calls one after another.
  const stream = keep(createClient(RouterService, { address, tls, logger })).route();
  let stopped = false;
  let answered = 0;
  let broken: unknown;
  stream.onMessage(({ confirmedSequence }) => {
    answered = confirmedSequence;
  });
  stream.onClose((error) => {
    if (!stopped) broken = error ?? 'the stream has ended';
  });
  const users = keep(createClient(DirectoryService, { address, tls, logger }));
  let calls = 0;
  const load = (async () => {
    for (let sequence = 1; !stopped; sequence++) {
      await users.getSigningKeys({});
      stream.write({ sequence });
      await until(() => answered === sequence || broken !== undefined, { what: 'the answer of the stream' });
      if (broken !== undefined) throw broken;
      calls++;
    }
  })();
  const underLoad = async (condition: () => Promise<boolean>, what: string) => {
    await until(condition, { what });
    const seen = calls;
    await until(() => calls > seen, { what: 'the load to go on' });
  };

  // First both authorities are trusted, then the certificates are of the new one, then the old one is trusted no more.
  const both = join(directory, 'both.crt');
  writeFileSync(both, readFileSync(authority.caFile, 'utf8') + readFileSync(renewed.caFile, 'utf8'));
  expect(await fresh({ ...after, caFile: both })).toBe('unavailable');
  replaceFiles(serverFiles, { ...authority.issue(...names), caFile: both });
  await underLoad(async () => (await fresh({ ...after, caFile: both })) === 'ok', 'the new authority');
  replaceFiles(clientFiles, { ...after, caFile: both });
  replaceFiles(serverFiles, { ...renewed.issue(...names), caFile: both });
  await underLoad(async () => (await fresh(after)) === 'ok', 'the new certificate');
  replaceFiles(serverFiles, renewed.issue(...names));
  await underLoad(
    async () => (await fresh({ ...before, caFile: both })) === 'unavailable',
    'the end of the old authority',
  );

  // A key that does not fit is not taken; what was there serves on.
  writeFileSync(serverFiles.keyFile, readFileSync(after.keyFile));
  await underLoad(async () => (await fresh(after)) === 'ok', 'the old key to serve on');
  stopped = true;
  await load;
  stream.end();
  // The client, too, shows the new certificate at its next connection: this server knows the new authority only.
  const next = await serve(tlsOf(renewed.issue(...names)));
  expect((await callsOf(next, tls)).directory).toBe('ok');
});

describe('a mesh of four processes with a certificate each', () => {
  const processes: MeshProcess[] = [];
  let env: NodeJS.ProcessEnv;

  const variables = ({ certFile, keyFile, caFile }: TlsFiles) => ({
    MESH_TLS_CERT: certFile,
    MESH_TLS_KEY: keyFile,
    MESH_TLS_CA: caFile,
  });
  const chatmesh = (more: NodeJS.ProcessEnv, ...args: string[]): Promise<{ code: number; out: string; err: string }> =>
    new Promise((resolve) => {
      execFile(process.execPath, [cli, ...args], { env: { ...env, ...more } }, (error, out, err) =>
        resolve({ code: error ? Number(error.code) : 0, out, err }),
      );
    });

  beforeAll(async () => {
    const names = ['EDGE_PORT', 'EDGE_H2_PORT', 'CHAT_PORT', 'USER_PORT', 'PRESENCE_PORT'];
    const ports = await freePorts(names.length + SERVICES.length);
    env = {
      PATH: process.env.PATH,
      DATA_DIR: join(directory, 'data'),
      EDGE_HOST: '127.0.0.1',
      ...Object.fromEntries(names.map((name, i) => [name, String(ports[i])])),
    };
    for (const [i, name] of SERVICES.entries()) {
      const own = { ...env, ...variables(authority.issue(`DNS:${name}`)) };
      processes.push(new MeshProcess([name], ports[names.length + i] as number, own));
    }
    await Promise.all(processes.map((p) => p.start()));
  });
  afterAll(async () => {
    for (const p of processes) await p.end('SIGKILL');
  });

  test('carries messages, and lets operators in by their certificate only', async () => {
    const create = ['user', 'create', '--contact-number', '+15550100', '--name', 'Ada', '--count', '2'];
    expect(await chatmesh({}, ...create)).toMatchObject({ code: 3 });
    const edge = variables(authority.issue('DNS:presence'));
    expect(await chatmesh(edge, ...create)).toMatchObject({
      code: 1,
      err: expect.stringContaining('permission_denied'),
    });
    const admin = variables(authority.issue('DNS:admin'));
    const { out, code } = await chatmesh(admin, ...create);
    expect(code).toBe(0);
    const [ada, bob] = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { user_id: string; token: string });
    const sent = await chatmesh({ CHATMESH_TOKEN: ada?.token }, 'send', '--to', bob?.user_id ?? '', 'Good morning');
    expect(sent).toMatchObject({ code: 0 });
    const received = await chatmesh({ CHATMESH_TOKEN: bob?.token }, 'tail', '--once', '--json');
    expect(received.out).toContain('Good morning');
    expect((await chatmesh(admin, 'inbox', '--user-id', ada?.user_id ?? '', '--json')).code).toBe(0);
  });
});
