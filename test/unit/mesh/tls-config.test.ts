import { ConfigError, EnvReader, readTls } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

const FILES = { MESH_TLS_CERT: '/cert.pem', MESH_TLS_KEY: '/key.pem', MESH_TLS_CA: '/ca.pem' };

const read = (variables: Record<string, string>) => {
  const env = new EnvReader(variables);
  const tls = readTls(env);
  env.finish();
  return tls;
};
const problemOf = (variables: Record<string, string>): string => {
  try {
    read(variables);
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return '';
};

describe('certificates of the mesh', () => {
  test('are named by three variables, or by none on loopback', () => {
    expect(read(FILES)).toEqual({ certFile: '/cert.pem', keyFile: '/key.pem', caFile: '/ca.pem' });
    expect(read({ ...FILES, MESH_HOST: '0.0.0.0' })).toBeDefined();
    for (const host of ['127.0.0.1', '127.0.0.2', '::1', 'localhost'])
      expect(read({ MESH_HOST: host })).toBeUndefined();
  });

  test.each(Object.keys(FILES))('are a problem without %s', (missing) => {
    expect(problemOf({ ...FILES, [missing]: '' })).toMatch(
      /MESH_TLS_CERT, MESH_TLS_KEY and MESH_TLS_CA belong together/,
    );
  });

  test.each(['0.0.0.0', '10.0.0.1', '::', 'chat-0.chat'])(
    'are needed on %s, unless somebody says otherwise',
    (host) => {
      expect(problemOf({ MESH_HOST: host })).toMatch(/^MESH_HOST=.*MESH_TLS_CERT.*MESH_INSECURE=true/);
      expect(problemOf({ MESH_HOST: host, MESH_INSECURE: 'false' })).toMatch(/MESH_INSECURE=true/);
      expect(read({ MESH_HOST: host, MESH_INSECURE: 'true' })).toBeUndefined();
    },
  );
});
