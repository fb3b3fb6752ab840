import { createLogger, EnvReader, MeshTls, readTls, TLS_VARIABLES } from '@chatmesh/mesh';
import type { Terminal } from './terminal.js';

/**
 * The operator's certificate, where the mesh asks for one. Only what is asked of the services themselves needs it.
 *
 * @throws ConfigError, MeshError `failed_precondition` naming the variables.
 */
export function operatorTls({ env }: Pick<Terminal, 'env'>): MeshTls | undefined {
  const reader = new EnvReader(Object.fromEntries(TLS_VARIABLES.map((name) => [name, env[name]])));
  const files = readTls(reader);
  reader.finish();
  return files && MeshTls.open(files, { logger: createLogger({ name: 'chatmesh', level: 'silent' }) });
}
