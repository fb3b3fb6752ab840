import { readConfig as chatConfig } from '@chatmesh/chat/config';
import { readConfig as edgeConfig } from '@chatmesh/edge/config';
import { addressesOf, addressToCall, ConfigError, EnvReader } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

/** The problems that finish() reports. */
function problems(env: Record<string, string>, read: (reader: EnvReader) => void): readonly string[] {
  const reader = new EnvReader(env);
  read(reader);
  try {
    reader.finish();
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    for (const problem of (error as ConfigError).problems) expect((error as Error).message).toContain(problem);
    return (error as ConfigError).problems;
  }
  return [];
}

describe('reading the environment', () => {
  test('values are taken, and defaults where nothing or an empty text is set', () => {
    const env = new EnvReader({
      CHAT_PORT: '7101',
      USER_PORT: '',
      SEND_RATE: '0',
      DATA_DIR: '/data',
      AUTH_JWKS_URL: 'https://a.example/keys',
      CHAT_ADDRESSES: 'chat-0.chat:7001, [::1]:7002',
      MESH_TRACE: 'Yes',
    });
    expect(env.port('CHAT_PORT', 1)).toBe(7101);
    expect(env.port('USER_PORT', 7002)).toBe(7002);
    expect(env.int('SEND_RATE', 200, { min: 0, max: 1000 })).toBe(0);
    expect(env.string('DATA_DIR', './data')).toBe('/data');
    expect(env.url('AUTH_JWKS_URL')).toBe('https://a.example/keys');
    expect(env.addresses('CHAT_ADDRESSES', [])).toEqual(['chat-0.chat:7001', '[::1]:7002']);
    expect(env.boolean('MESH_TRACE', false)).toBe(true);
    expect(env.optional('AUTH_ISSUER')).toBeUndefined();
    env.finish();
  });

  test('an IPv6 host may be written with and without brackets, and gets them where a port follows', () => {
    for (const MESH_HOST of ['::1', '[::1]']) {
      const env = new EnvReader({ MESH_HOST });
      expect(env.host('MESH_HOST', '127.0.0.1')).toBe('::1');
      expect(edgeConfig(env)).toMatchObject({
        routers: ['[::1]:7001'],
        userAddress: '[::1]:7002',
        presenceAddress: '[::1]:7003',
      });
      expect(chatConfig(env)).toMatchObject({ host: '::1', userAddress: '[::1]:7002', presenceAddress: '[::1]:7003' });
      env.finish();
    }
    expect(addressToCall('::', 7001)).toBe('[::1]:7001');
    expect(addressToCall('0.0.0.0', 7001)).toBe('127.0.0.1:7001');
    expect(addressToCall('localhost', 7001)).toBe('localhost:7001');
  });

  test('a name that stands for IPv6 addresses is looked up', async () => {
    expect(await addressesOf('dns:///[::1]:7001')).toEqual(['[::1]:7001']);
  });

  test('a host with a port, and an address without one, are told apart', () => {
    const found = problems({ MESH_HOST: '127.0.0.1:7001', EDGE_HOST: '::1:x', USER_ADDRESS: '::1' }, (env) => {
      env.host('MESH_HOST', '127.0.0.1');
      env.host('EDGE_HOST', '0.0.0.0');
      env.address('USER_ADDRESS', '127.0.0.1:7002');
    });
    expect(found).toEqual([
      'MESH_HOST must be a host name or an IP address, without a port, not "127.0.0.1:7001"; for example MESH_HOST=127.0.0.1',
      'EDGE_HOST must be a host name or an IP address, without a port, not "::1:x"; for example EDGE_HOST=0.0.0.0',
      'USER_ADDRESS must be host:port, not "::1"; for example USER_ADDRESS=127.0.0.1:7002',
    ]);
  });

  test('every problem is reported at once, each with the variable, the value and a good example', () => {
    const found = problems(
      {
        CHAT_PORT: '70000',
        SEND_RATE: 'many',
        AUTH_JWKS_URL: 'keys',
        CHAT_ADDRESSES: 'chat',
        MESH_TRACE: 'maybe',
        EDGE_PROT: '1',
      },
      (env) => {
        expect(env.port('CHAT_PORT', 7001)).toBe(7001);
        env.int('SEND_RATE', 200, { min: 0, max: 1000 });
        env.url('AUTH_JWKS_URL');
        env.addresses('CHAT_ADDRESSES', ['127.0.0.1:7001']);
        env.boolean('MESH_TRACE', false);
        env.port('EDGE_PORT', 8080);
      },
    );
    expect(found).toEqual([
      'CHAT_PORT must be a whole number from 0 to 65535, not "70000"; for example CHAT_PORT=7001',
      'SEND_RATE must be a whole number from 0 to 1000, not "many"; for example SEND_RATE=200',
      'AUTH_JWKS_URL must be an absolute URL, not "keys"; for example AUTH_JWKS_URL=https://host.example/path',
      'CHAT_ADDRESSES must be a list of host:port, not "chat"; for example CHAT_ADDRESSES=127.0.0.1:7001',
      'MESH_TRACE must be true or false, not "maybe"; for example MESH_TRACE=false',
      'EDGE_PROT is not a variable of the mesh; did you mean EDGE_PORT?',
    ]);
  });

  test('a variable that several services read is reported once', () => {
    const read = (env: EnvReader) => env.port('USER_PORT', 7002);
    expect(
      problems({ USER_PORT: '-1' }, (env) => {
        read(env);
        read(env);
      }),
    ).toHaveLength(1);
  });

  test('numbers that only look like numbers are refused', () => {
    for (const value of ['0x10', '1e3', '7001.5', ' 7001x', 'NaN', 'Infinity', '99999999999999999999']) {
      expect(problems({ SEND_BURST: value }, (env) => env.int('SEND_BURST', 1, { min: 0, max: 1e9 }))).toHaveLength(1);
    }
  });

  test('secrets are never shown, neither by name nor inside a URL', () => {
    const secret = 'hunter2';
    const found = problems(
      { AUTH_HS256_SECRET: secret, DATABASE_URL: `//ada:${secret}@db`, AUTH_TOKEN: secret, REDIS_PASSWORD: secret },
      (env) => {
        env.int('AUTH_HS256_SECRET', 1, { min: 0, max: 9 });
        env.url('DATABASE_URL');
      },
    );
    expect(found).toHaveLength(4);
    expect(found.join('\n')).not.toContain(secret);
  });

  test('names of other programs are none of our business, names like ours are', () => {
    const read = (env: EnvReader) => {
      env.string('DATA_DIR', './data');
      env.int('MAX_CONNECTIONS_PER_USER', 10, { min: 0, max: 100 });
    };
    expect(problems({ PATH: '/bin', USER: 'ada', DATABASE: 'x', USER_ZDOTDIR: '/x' }, read)).toEqual([]);
    expect(problems({ PULSAR_URL: 'pulsar://x' }, read)).toEqual([
      'PULSAR_URL is not a variable of the mesh: remove it',
    ]);
    expect(problems({ DATA_DIRECTORY: '/x', MAX_CONNECTIONS: '5' }, read)).toEqual([
      'DATA_DIRECTORY is not a variable of the mesh; did you mean DATA_DIR?',
      'MAX_CONNECTIONS is not a variable of the mesh; did you mean MAX_CONNECTIONS_PER_USER?',
    ]);
  });

  test('what Kubernetes sets for its Services is neither unknown nor taken for a value', () => {
    const kubernetes = {
      EDGE_SERVICE_HOST: '10.0.0.1',
      EDGE_SERVICE_PORT: '8080',
      EDGE_SERVICE_PORT_HTTP: '8080',
      EDGE_PORT: 'tcp://10.0.0.1:8080',
      EDGE_PORT_8080_TCP: 'tcp://10.0.0.1:8080',
      EDGE_PORT_8080_TCP_PORT: '8080',
      EDGE_PORT_8080_TCP_PROTO: 'tcp',
    };
    expect(problems(kubernetes, (env) => expect(env.port('EDGE_PORT', 8080)).toBe(8080))).toEqual([]);
  });
});
