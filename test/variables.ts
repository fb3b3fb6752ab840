import { readFileSync } from 'node:fs';

const root = new URL('../../', import.meta.url);

/** A file of the repository. */
export const readRepository = (path: string): string => readFileSync(new URL(path, root), 'utf8');

/** The configuration of the services, as their main file reads it. */
export interface MeshVariables {
  /** Every variable that is read. */
  readonly names: ReadonlySet<string>;
  /** @throws ConfigError */
  read(variables: NodeJS.ProcessEnv): unknown;
}

export async function meshVariables(): Promise<MeshVariables> {
  const { readMeshConfig } = await import(new URL('services/dist/config.js', root).href);
  const names = new Set<string>();
  readMeshConfig(new Proxy({}, { get: (_target, name) => void names.add(String(name)) }));
  return { names, read: readMeshConfig };
}
