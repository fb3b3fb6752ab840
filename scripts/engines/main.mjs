// `npm run engines -- up | down | env`: real engines on the loopback, to develop with, without Docker.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { ENGINES, enginesHome, missingFor } from './index.mjs';

/** @typedef {keyof typeof ENGINES} Name */

const USAGE = `npm run engines -- up [${Object.keys(ENGINES).join('] [')}]   starts them (all by default) and prints their addresses
npm run engines -- env                                        prints the addresses of those that run, for a shell
npm run engines -- down [--wipe]                              stops them; with --wipe their data is deleted, too`;

/** The ports that people expect; where one is taken, another is chosen and kept. */
const PORTS = {
  cassandra: { native: 9042, storage: 7000 },
  pulsar: { broker: 6650, admin: 8090, bookie: 3181 },
  redis: { redis: 6379 },
  // 5432 is that of the system's own PostgreSQL.
  postgres: { postgres: 5433 },
};

/** @param {Name} name */
function engine(name) {
  return new ENGINES[name]({ directory: join(enginesHome(), name), ports: PORTS[name], detached: true });
}

const all = /** @type {Name[]} */ (Object.keys(ENGINES));

function running() {
  return all
    .filter((name) => existsSync(join(enginesHome(), name)))
    .map(engine)
    .filter(({ pid }) => pid !== undefined);
}

/** @param {Record<string, string>[]} environments */
function print(...environments) {
  for (const [name, value] of environments.flatMap(Object.entries)) console.log(`export ${name}='${value}'`);
}

/** @param {Name[]} names */
async function up(names) {
  const missing = missingFor(names);
  if (missing.length > 0) throw new Error(missing.join('\n'));
  const engines = names.map(engine);
  await Promise.all(
    engines.map(async (each) => {
      const startedMs = performance.now();
      await each.start();
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
      console.error(`${each.name} answers after ${seconds} s; its log is ${each.log}`);
    }),
  );
  print(...engines.map(({ env }) => env));
}

/** @param {string[]} options */
async function down(options) {
  const wipe = options.includes('--wipe');
  const engines = wipe ? all.map(engine) : running();
  await Promise.all(
    engines.map(async (each) => {
      await each.stop();
      if (wipe) await each.wipe();
    }),
  );
}

const [command, ...rest] = process.argv.slice(2);
const known = rest.every((word) => (command === 'up' && word in ENGINES) || (command === 'down' && word === '--wipe'));
try {
  if (command === 'up' && known) await up(rest.length > 0 ? /** @type {Name[]} */ (rest) : all);
  else if (command === 'down' && known) await down(rest);
  else if (command === 'env' && known) {
    if (running().length === 0) throw new Error('No engine runs: npm run engines -- up');
    print(...running().map(({ env }) => env));
  } else throw new Error(USAGE);
} catch (error) {
  console.error(/** @type {Error} */ (error).message);
  process.exitCode = 1;
}
