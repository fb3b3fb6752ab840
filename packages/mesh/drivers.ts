import { MeshError } from './errors.js';

/** What names the engine of each driver, for the operator. */
const VARIABLES = {
  'cassandra-driver': 'SCYLLA_CONTACT_POINTS',
  ioredis: 'REDIS_URL or REDIS_SENTINELS',
  pg: 'DATABASE_URL',
  'pulsar-client': 'PULSAR_URL',
} as const;

/** Node's and Jest's codes for a module that is not there, and for a binary that does not fit this platform. */
const NOT_INSTALLED = ['ERR_MODULE_NOT_FOUND', 'MODULE_NOT_FOUND', 'ERR_DLOPEN_FAILED'];

/**
 * Loads what needs the driver of an engine. A mesh without that engine needs no driver, so this is called where the engine's
 * address is set, and nowhere else.
 *
 * @param load imports the driver, or the module that imports it.
 * @throws MeshError `failed_precondition` naming the package and what to do where it is not installed.
 */
export async function withDriver<T>(driver: keyof typeof VARIABLES, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    if (!NOT_INSTALLED.includes((cause as NodeJS.ErrnoException).code ?? '')) throw cause;
    const variable = VARIABLES[driver];
    throw new MeshError(
      'failed_precondition',
      `${variable} is set, but the package ${driver} is not installed, or not for this platform: install it with \`npm install ${driver}\`, or unset ${variable}`,
      { cause },
    );
  }
}
