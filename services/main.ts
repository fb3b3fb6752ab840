import {
  AdminServer,
  ConfigError,
  createLogger,
  EnvReader,
  giveBackMemoryWhenIdle,
  Metrics,
  runServices,
  type Service,
  toMeshError,
} from '@chatmesh/mesh';

const NAMES = ['user', 'presence', 'chat', 'edge'] as const;
const DRAIN_MS = 25_000;

/** `npm start [-- SERVICE...]`: the whole mesh in one process, or the services named. */
async function main(): Promise<void> {
  const wanted = process.argv.slice(2);
  const unknown = wanted.filter((name) => !(NAMES as readonly string[]).includes(name));
  if (unknown.length > 0)
    throw new ConfigError([`unknown service ${unknown.join(', ')}; there are ${NAMES.join(', ')}`]);

  const [user, presence, chat, edge] = await Promise.all([
    import('@chatmesh/user'),
    import('@chatmesh/presence'),
    import('@chatmesh/chat'),
    import('@chatmesh/edge'),
  ]);
  const env = new EnvReader(process.env);
  // Every service reads its variables, started or not: so a misspelt one is noticed wherever it is set.
  const config = {
    user: user.readConfig(env),
    presence: presence.readConfig(env),
    chat: chat.readConfig(env),
    edge: edge.readConfig(env),
    adminHost: env.string('ADMIN_HOST', '127.0.0.1'),
    adminPort: env.port('ADMIN_PORT', 9090),
    logLevel: env.string('LOG_LEVEL', 'info'),
  };
  env.finish();

  const logger = createLogger({ name: 'chatmesh', level: config.logLevel });
  const deps = { logger, metrics: new Metrics() };
  const admin = new AdminServer({ ...deps, variable: 'ADMIN_PORT' });
  const services: Service[] = [];
  const starts = (name: (typeof NAMES)[number]) => wanted.length === 0 || wanted.includes(name);
  let started = false;
  const add = (service: Service, check: () => boolean) => {
    services.push(service);
    admin.addCheck(service.name, () => started && check());
  };
  try {
    if (starts('user')) {
      const service = await user.UserService.create(config.user, deps);
      add(service, () => service.ready);
    }
    if (starts('presence')) add(await presence.PresenceService.create(config.presence, deps), () => true);
    if (starts('chat')) {
      const service = await chat.ChatService.create(config.chat, deps);
      add(service, () => service.ready);
    }
    if (starts('edge')) {
      const service = await edge.EdgeService.create(config.edge, deps);
      add(service, () => service.ready);
    }
    await admin.listen(config.adminPort, config.adminHost);
  } catch (error) {
    for (const service of services.reverse()) await service[Symbol.asyncDispose]();
    throw error;
  }
  await runServices(services, { logger, drainMs: DRAIN_MS, signals: process, exit: (code) => process.exit(code) });
  started = true;
  giveBackMemoryWhenIdle(() => process.cpuUsage());
  logger.info({ services: services.map((service) => service.name) }, 'ready');
}

main().catch((error) => {
  const text = error instanceof ConfigError ? error.message : toMeshError(error).message;
  process.stderr.write(`chatmesh cannot start: ${text}\n`);
  process.exit(1);
});
