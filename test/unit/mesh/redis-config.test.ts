import { EnvReader, readRedisConfig } from '@chatmesh/mesh';
import { describe, expect, test } from '@jest/globals';

function read(variables: Record<string, string>) {
  const env = new EnvReader(variables);
  const config = readRedisConfig(env);
  env.finish();
  return config;
}

describe('the variables of Redis', () => {
  test('lead nowhere when none is set', () => {
    expect(read({})).toBeUndefined();
  });

  test('name one server, with credentials that may be escaped, and its database', () => {
    expect(read({ REDIS_URL: 'redis://ada:p%40ss@redis.example:6380/2' })).toMatchObject({
      nodes: ['redis.example:6380'],
      username: 'ada',
      password: 'p@ss',
      database: 2,
      tls: false,
      cluster: false,
    });
  });

  test('have the usual port, and TLS by the scheme', () => {
    expect(read({ REDIS_URL: 'rediss://:secret@[::1]', REDIS_CA_FILE: '/ca.pem' })).toMatchObject({
      nodes: ['[::1]:6379'],
      username: undefined,
      password: 'secret',
      tls: true,
      caFile: '/ca.pem',
    });
  });

  test('name nodes of a cluster', () => {
    const config = read({ REDIS_CLUSTER: 'true', REDIS_URL: 'redis://:secret@a:6379,b:6380' });
    expect(config).toMatchObject({ cluster: true, nodes: ['a:6379', 'b:6380'], password: 'secret' });
  });

  test('name sentinels, which need no URL', () => {
    expect(read({ REDIS_SENTINELS: 'a:26379,b:26379' })).toMatchObject({
      sentinels: ['a:26379', 'b:26379'],
      sentinelMaster: 'mymaster',
      nodes: [],
    });
  });

  test.each([
    ['another scheme', { REDIS_URL: 'http://host:6379' }, 'REDIS_URL'],
    ['a port that there is not', { REDIS_URL: 'redis://host:70000' }, 'REDIS_URL'],
    ['several hosts of no cluster', { REDIS_URL: 'redis://a:1,b:2' }, 'REDIS_CLUSTER=true'],
    ['a database of a cluster', { REDIS_CLUSTER: 'true', REDIS_URL: 'redis://a:1/2' }, 'no database'],
    ['broken escapes', { REDIS_URL: 'redis://:%zz@a:1' }, 'REDIS_URL'],
    ['sentinels of a cluster', { REDIS_CLUSTER: 'true', REDIS_URL: 'redis://a', REDIS_SENTINELS: 'b:1' }, 'unset'],
  ])('refuse %s, saying what is expected', (_, variables, expected) => {
    expect(() => read(variables as Record<string, string>)).toThrow(expected);
  });

  test('do not show credentials when they are refused', () => {
    const refused = () => read({ REDIS_URL: 'redis://ada:secret@host:70000' });
    expect(refused).toThrow('***@host:70000');
    expect(refused).not.toThrow('secret');
  });
});
