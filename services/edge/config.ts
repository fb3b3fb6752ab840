import { addressToCall, type EnvReader } from '@chatmesh/mesh';

export interface EdgeConfig {
  readonly host: string;
  readonly port: number;
  readonly h2Port: number;
  readonly tlsCert: string | undefined;
  readonly tlsKey: string | undefined;
  /** host:port of each router. */
  readonly routers: readonly string[];
  readonly userAddress: string;
  readonly presenceAddress: string;
  /** 0 is off. */
  readonly maxConnectionsPerUser: number;
  /** 0 is off. */
  readonly maxConnectionsPerAddress: number;
  readonly auth: AuthConfig;
}

export interface AuthConfig {
  readonly jwksUrl: string | undefined;
  readonly issuer: string | undefined;
  readonly audience: string | undefined;
  readonly hs256Secret: string | undefined;
}

/** Reads the edge's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): EdgeConfig {
  const mesh = env.host('MESH_HOST', '127.0.0.1');
  return {
    host: env.host('EDGE_HOST', '0.0.0.0'),
    port: env.port('EDGE_PORT', 8080),
    h2Port: env.port('EDGE_H2_PORT', 8081),
    tlsCert: env.optional('EDGE_TLS_CERT'),
    tlsKey: env.optional('EDGE_TLS_KEY'),
    routers: env.addresses('CHAT_ADDRESSES', [addressToCall(mesh, env.port('CHAT_PORT', 7001))]),
    userAddress: env.address('USER_ADDRESS', addressToCall(mesh, env.port('USER_PORT', 7002))),
    presenceAddress: env.address('PRESENCE_ADDRESS', addressToCall(mesh, env.port('PRESENCE_PORT', 7003))),
    maxConnectionsPerUser: env.int('MAX_CONNECTIONS_PER_USER', 10, { min: 0, max: 10_000 }),
    maxConnectionsPerAddress: env.int('MAX_CONNECTIONS_PER_ADDRESS', 0, { min: 0, max: 1_000_000 }),
    auth: {
      jwksUrl: env.url('AUTH_JWKS_URL'),
      issuer: env.optional('AUTH_ISSUER'),
      audience: env.optional('AUTH_AUDIENCE'),
      hs256Secret: env.optional('AUTH_HS256_SECRET'),
    },
  };
}
