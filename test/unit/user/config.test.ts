import { ConfigError, EnvReader } from '@chatmesh/mesh';
import { readConfig } from '@chatmesh/user';
import { describe, expect, test } from '@jest/globals';

const read = (variables: Record<string, string>) => {
  const env = new EnvReader(variables);
  const config = readConfig(env);
  env.finish();
  return config;
};
const problemsOf = (variables: Record<string, string>): readonly string[] => {
  try {
    read(variables);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
};

describe("the user service's database", () => {
  test('is the embedded one unless DATABASE_URL is set', () => {
    expect(read({}).database).toBeUndefined();
    expect(read({ DATABASE_POOL_MAX: '5' }).database).toBeUndefined();
    expect(read({ DATABASE_URL: 'postgresql://ada:pw@db/mesh', DATABASE_TLS_CA: '/ca.pem' }).database).toEqual({
      url: 'postgresql://ada:pw@db/mesh',
      replicaUrl: undefined,
      poolMax: 10,
      tlsCaFile: '/ca.pem',
    });
  });

  test.each([
    'mysql://ada:pw@db/mesh',
    'postgres://ada:pw@db',
    'postgres://ada:pw@db/mesh?sslmode=prefer',
    'postgres://ada:pw@db/mesh?sslrootcert=/ca.pem',
    'not a url, pw',
  ])('is refused as %s, by its name and without the password', (url) => {
    const problems = problemsOf({ DATABASE_URL: url, DATABASE_REPLICA_URL: 'postgres://a:b@standby/mesh' });
    expect(problems).toEqual([
      expect.stringMatching(/^DATABASE_URL must be a postgres:\/\/ URL.*for example DATABASE_URL=/),
    ]);
    if (url.includes('@')) expect(problems[0]).not.toContain('ada:pw');
  });

  test('may have a replica only where there is something to replicate', () => {
    expect(problemsOf({ DATABASE_REPLICA_URL: 'postgres://a:b@standby/mesh', DATABASE_POOL_MAX: '0' })).toEqual([
      expect.stringContaining('DATABASE_POOL_MAX must be a whole number from 1 to 1000'),
      expect.stringContaining('DATABASE_REPLICA_URL names a standby of DATABASE_URL, which is not set'),
    ]);
  });
});
