/** The user service in a process of its own: `node user-process.js DATA_DIR`; tells its port, or why there is none. */
import { createLogger, Metrics } from '@chatmesh/mesh';
import { UserService } from '@chatmesh/user';

const deps = { logger: createLogger({ name: 'user', level: 'silent' }), metrics: new Metrics() };
const config = { host: '127.0.0.1', port: 0, dataDir: process.argv[2] ?? '' };

export type Told = { readonly port: number } | { readonly error: string };

try {
  const service = await UserService.create(config, deps);
  await service.start();
  process.send?.({ port: service.port } satisfies Told);
} catch (error) {
  process.send?.({ error: (error as Error).message } satisfies Told);
}
