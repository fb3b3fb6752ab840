// Before the tests on real engines: starts those that the environment does not name, and names them in it.
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ENGINES, missingFor } from '#engines';

/** What says where an engine is; all of its variables, or none. */
const VARIABLES = {
  cassandra: ['SCYLLA_CONTACT_POINTS', 'SCYLLA_LOCAL_DATACENTER'],
  pulsar: ['PULSAR_URL', 'PULSAR_ADMIN_URL'],
  redis: ['REDIS_URL'],
  postgres: ['DATABASE_URL'],
};

export default async function setup() {
  const wanted = [];
  for (const [name, variables] of Object.entries(VARIABLES)) {
    const absent = variables.filter((variable) => !process.env[variable]);
    if (absent.length === variables.length) wanted.push(name);
    else if (absent.length > 0)
      throw new Error(`${absent.join(', ')} must be set, too, to use the ${name} that is there.`);
  }
  const missing = missingFor(wanted);
  if (missing.length > 0) throw new Error(`Tests on real engines cannot run here.\n${missing.join('\n')}`);

  const directory = mkdtempSync(join(tmpdir(), 'chatmesh-engines-'));
  const engines = wanted.map((name) => new ENGINES[name]({ directory: join(directory, name) }));
  globalThis.startedEngines = { directory, engines };
  await Promise.all(engines.map((engine) => engine.start()));
  for (const { env } of engines) Object.assign(process.env, env);
}
