// Makes services/user/dist/database-template-<pglite version>-<number>: the directory of an empty database, as the user
// service copies it. Making one runs initdb, which takes seconds. The version is in the name, so that an upgrade of PGlite
// makes a new template; the number grows when it is made in another way (services/user/stores/pglite-worker.ts knows both).
import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const service = fileURLToPath(new URL('../services/user/', import.meta.url));
const dist = join(service, 'dist');
const { resolve } = createRequire(join(service, 'package.json'));

/** @returns {Promise<string>} the version of the package that `entry`, one of its files, belongs to */
async function versionOf(entry) {
  for (let folder = dirname(entry); ; folder = dirname(folder)) {
    const text = await readFile(join(folder, 'package.json'), 'utf8').catch(() => '{}');
    const { name, version } = JSON.parse(text);
    if (name === '@electric-sql/pglite') return version;
    if (folder === dirname(folder)) throw new Error(`${entry} lies in no package that has a version`);
  }
}

const entry = resolve('@electric-sql/pglite');
const name = `database-template-${await versionOf(entry)}-2`;

await mkdir(dist, { recursive: true });
const templates = (await readdir(dist)).filter((file) => file.startsWith('database-template-'));
if (!templates.includes(name)) {
  const { PGlite } = await import(pathToFileURL(entry).href);
  // Renamed only when complete: an interrupted build never leaves half a template behind.
  const partial = join(dist, `.${name}.${process.pid}`);
  const database = await PGlite.create(partial);
  // PostgreSQL makes new databases from these two; nobody makes one here, and each is 300 files that every start would copy.
  await database.exec('UPDATE pg_database SET datistemplate = false');
  for (const unused of ['template0', 'template1']) await database.exec(`DROP DATABASE ${unused}`);
  await database.close();
  await rename(partial, join(dist, name));
  for (const outdated of templates) await rm(join(dist, outdated), { recursive: true, force: true });
}
