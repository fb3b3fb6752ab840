import type { EnvReader } from '@chatmesh/mesh';

/** What an operator can choose. */
export interface UserConfig {
  /** The address to listen on. */
  readonly host: string;
  readonly port: number;
  /** Where embedded data lives; this service's is in `user` below it. */
  readonly dataDir: string;
}

/** Reads the user service's variables; problems are reported by the reader. */
export function readConfig(env: EnvReader): UserConfig {
  return {
    host: env.string('MESH_HOST', '127.0.0.1'),
    port: env.port('USER_PORT', 7002),
    dataDir: env.string('DATA_DIR', './data'),
  };
}
