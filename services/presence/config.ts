import { type EnvReader, type RedisConfig, readRedisConfig } from '@chatmesh/mesh';

/** What an operator can choose. */
export interface PresenceConfig {
  /** The address to listen on. */
  readonly host: string;
  readonly port: number;
  /** Where presence lives; in memory when undefined. */
  readonly redis?: RedisConfig | undefined;
}

/** Reads the presence service's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): PresenceConfig {
  return {
    host: env.host('MESH_HOST', '127.0.0.1'),
    port: env.port('PRESENCE_PORT', 7003),
    redis: readRedisConfig(env),
  };
}
