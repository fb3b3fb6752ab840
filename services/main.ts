import { setTimeout as sleep } from 'node:timers/promises';
import {
  AdminServer,
  ConfigError,
  createLogger,
  DirectoryLocks,
  giveBackMemoryWhenIdle,
  type Logger,
  MeshTls,
  Metrics,
  runServices,
  type Service,
  toMeshError,
} from '@chatmesh/mesh';
import { readMeshConfig } from './config.js';

const NAMES = ['user', 'presence', 'chat', 'edge'] as const;
const DRAIN_MS = 25_000;

/** How often it is looked whether all are ready, and after how many looks in vain the log says who is not. */
const LOOK_MS = 20;
const LOOKS = 250;

/** `npm start [-- SERVICE...]`: the whole mesh in one process, or the services named. */
async function main(): Promise<void> {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !(NAMES as readonly string[]).includes(name));
  if (unknown.length > 0)
    throw new ConfigError([`unknown service ${unknown.join(', ')}; there are ${NAMES.join(', ')}`]);

  const config = readMeshConfig(process.env);
  const logger = createLogger({ name: 'chatmesh', level: config.logLevel });
  const tls = config.tls && MeshTls.open(config.tls, { logger });
  const traces = config.traces && new (await import('@chatmesh/mesh/otlp')).OtlpTraces(config.traces, { logger });
  const deps = { logger, metrics: new Metrics(), locks: new DirectoryLocks(), tls, traces };
  const admin = new AdminServer({ logger, metrics: deps.metrics, variable: 'ADMIN_PORT', pid: process.pid });
  const starts = (name: (typeof NAMES)[number]) => wanted.length === 0 || wanted.includes(name);
  // The user database opens in a thread of its own: it is asked to first, and meanwhile the other services are loaded. The order
  // is the same in every process, so that of two at once none takes what the other waits for.
  const user = starts('user') ? await import('@chatmesh/user') : undefined;
  const creations = [
    user?.UserService.create(config.user, deps),
    starts('presence')
      ? import('@chatmesh/presence').then((m) => m.PresenceService.create(config.presence, deps))
      : undefined,
    starts('chat') ? import('@chatmesh/chat').then((m) => m.ChatService.create(config.chat, deps)) : undefined,
    starts('edge') ? import('@chatmesh/edge').then((m) => m.EdgeService.create(config.edge, deps)) : undefined,
  ];
  const created = await Promise.allSettled(creations.filter((creation) => creation !== undefined));
  const services = created.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  let started = false;
  for (const service of services) admin.addCheck(service.name, () => started && service.ready);
  try {
    for (const result of created) if (result.status === 'rejected') throw result.reason;
    await admin.listen(config.adminPort, config.adminHost);
  } catch (error) {
    for (const service of services.reverse()) await service[Symbol.asyncDispose]();
    throw error;
  }
  const exit = (code: number) => {
    // What went wrong must not go on; after a drain there is time for the last spans.
    if (code !== 0 || !traces) process.exit(code);
    void traces.close().finally(() => process.exit(code));
  };
  await runServices(services, { logger, drainMs: DRAIN_MS, signals: process, exit });
  started = true;
  giveBackMemoryWhenIdle(() => process.cpuUsage());
  await sayWhenReady(services, logger);
}

/** A service that runs may yet wait for another one. */
async function sayWhenReady(
  services: readonly (Service & { readonly ready: boolean })[],
  logger: Logger,
): Promise<void> {
  const names = (some: readonly Service[]) => some.map(({ name }) => name);
  for (let looks = 1; ; looks++) {
    const waiting = services.filter((service) => !service.ready);
    if (waiting.length === 0) break;
    if (looks === LOOKS) logger.warn({ services: names(waiting) }, 'not ready yet');
    await sleep(LOOK_MS, undefined, { ref: false });
  }
  logger.info({ services: names(services) }, 'ready');
}

main().catch((error) => {
  const text = error instanceof ConfigError ? error.message : toMeshError(error).message;
  process.stderr.write(`chatmesh cannot start: ${text}\n`);
  process.exit(1);
});
