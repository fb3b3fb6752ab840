import { beforeAll, describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { type MeshVariables, meshVariables, readRepository as read } from '../variables.js';

let config: MeshVariables;
beforeAll(async () => {
  config = await meshVariables();
});

interface Compose {
  readonly services: Readonly<Record<string, ComposedService>>;
}

interface ComposedService {
  readonly image: string;
  readonly environment?: Readonly<Record<string, string>>;
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly networks: readonly string[];
  readonly depends_on?: Readonly<Record<string, unknown>>;
}

describe('deploy/compose.yaml', () => {
  const { services } = parse(read('deploy/compose.yaml'), { merge: true }) as Compose;
  const mesh = Object.entries(services).filter(([, { image }]) => image.startsWith('chatmesh:'));
  /** As compose fills it in; what has no default has to be given. */
  const filled = ({ environment = {} }: ComposedService, given: Record<string, string>) =>
    Object.fromEntries(
      Object.entries(environment).map(([name, value]) => [
        name,
        value.replace(/\$\{(\w+):\?[^}]*\}/g, (_all, variable: string) => given[variable] ?? ''),
      ]),
    );
  const given = { CHAT_FINGERPRINT_KEY: '0a'.repeat(32), POSTGRES_PASSWORD: 'f3'.repeat(16) };

  test('runs each service of the mesh, routers twice, and what prepares the engines', () => {
    expect(mesh.map(([name]) => name)).toEqual(['migrate', 'user', 'presence', 'chat', 'edge']);
    for (const [name, { command }] of mesh) expect(command ?? ['migrate']).toEqual([name]);
    expect(services.chat).toMatchObject({ deploy: { replicas: 2 } });
    const image = read('deploy/Containerfile');
    expect(image).toContain('services/dist/main.js');
    expect(services.migrate?.entrypoint).toEqual(['node', 'services/dist/migrate.js']);
  });

  test('sets variables that the services know, to what they take', () => {
    for (const [, service] of mesh) {
      expect([...config.names]).toEqual(expect.arrayContaining(Object.keys(service.environment ?? {})));
      expect(() => config.read(filled(service, given))).not.toThrow();
    }
  });

  test('uses the real engines, each of which is there, of a version that does not change by itself', () => {
    expect(config.read(filled(services.chat as ComposedService, given))).toMatchObject({
      user: { database: { url: expect.stringContaining('@postgres:') } },
      presence: { redis: { nodes: ['redis:6379'] } },
      chat: { pulsar: { serviceUrl: 'pulsar://pulsar:6650' }, scylla: { contactPoints: ['cassandra:9042'] } },
    });
    for (const name of ['postgres', 'redis', 'pulsar', 'cassandra']) {
      expect(services[name]?.image).toMatch(/:\d+(\.\d+)+$/);
      expect(services[name]?.networks).toEqual(['mesh']);
    }
    for (const { depends_on = {} } of Object.values(services))
      expect(Object.keys(services)).toEqual(expect.arrayContaining(Object.keys(depends_on)));
  });
});
