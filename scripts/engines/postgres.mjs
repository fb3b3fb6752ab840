import { execFileSync, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdtempSync, readdirSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Engine } from './engine.mjs';
import { ask } from './network.mjs';

const DATABASE = 'chatmesh';
const HINT = 'on Debian: apt-get install postgresql; on macOS: brew install postgresql@17';

/** The folder with `postgres` and `initdb`: Debian keeps them off the path, one folder per version. @returns {string | undefined} */
function programs() {
  const debian = '/usr/lib/postgresql';
  const versions = existsSync(debian) ? readdirSync(debian).sort((a, b) => Number(b) - Number(a)) : [];
  const asked = spawnSync('pg_config', ['--bindir'], { encoding: 'utf8' }).stdout?.trim();
  const folders = [...versions.map((version) => join(debian, version, 'bin')), ...(asked ? [asked] : [])];
  return folders.find((folder) => ['postgres', 'initdb'].every((name) => existsSync(join(folder, name))));
}

/** PostgreSQL refuses to run as root; there it runs as the user that its package made. @returns {{ uid?: number, gid?: number }} */
function owner() {
  if (process.getuid?.() !== 0) return {};
  /** @param {string} flag */
  const id = (flag) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

/** PostgreSQL with its default durability, with one superuser without a password and one database. */
export class Postgres extends Engine {
  static engineName = 'postgres';
  static portNames = ['postgres'];
  /** SIGTERM would wait for the clients. @type {NodeJS.Signals} */
  static stopSignal = 'SIGINT';

  /** @override @returns {string[]} */
  static missing() {
    if (programs() === undefined) return [`PostgreSQL: there is no postgres with its initdb (${HINT}).`];
    if (process.getuid?.() === 0 && spawnSync('id', ['postgres']).status !== 0)
      return [
        'PostgreSQL refuses to run as root, and there is no user postgres to run it as (adduser --system postgres).',
      ];
    return [];
  }

  /** @override @returns {Record<string, string>} */
  get env() {
    return { DATABASE_URL: `postgres://${DATABASE}@${this.host}:${this.ports.postgres}/${DATABASE}` };
  }

  /** @override @param {{ timeoutMs: number }} options */
  async answers(options) {
    // A startup message of protocol 3.0. One that still recovers answers it with an error (E) instead of with R.
    const text = `user\0${DATABASE}\0database\0${DATABASE}\0\0`;
    const request = Buffer.alloc(8 + text.length);
    request.writeInt32BE(request.length, 0);
    request.writeInt32BE(3 << 16, 4);
    request.write(text, 8);
    const reply = await ask(this.host, Number(this.ports.postgres), [request], options);
    return reply.toString('latin1', 0, 1) === 'R';
  }

  /** @override @protected */
  async command() {
    const bin = programs();
    if (bin === undefined) throw new Error(Postgres.missing()[0]);
    const user = owner();
    if (!existsSync(this.#data)) this.#initialise(bin, user);
    const args = ['-D', realpathSync(this.#data), '-h', this.host, '-p', String(this.ports.postgres), '-k', ''];
    return { command: join(bin, 'postgres'), args, ...user };
  }

  /** @override */
  async wipe() {
    await this.kill();
    if (existsSync(this.#data)) rmSync(realpathSync(this.#data), { recursive: true, force: true });
    await super.wipe();
  }

  /** A link to the folder of its data, made when that is complete. */
  get #data() {
    return join(this.directory, 'data');
  }

  /**
   * Makes the folder of its data. As root that lies where another user reaches it, which a folder in root's home or a private
   * temporary one is not.
   *
   * @param {string} bin the folder of PostgreSQL's programs
   * @param {{ uid?: number, gid?: number }} user
   */
  #initialise(bin, user) {
    const folder = mkdtempSync(user.uid === undefined ? join(this.directory, 'data-') : '/var/tmp/chatmesh-postgres-');
    if (user.uid !== undefined && user.gid !== undefined) chownSync(folder, user.uid, user.gid);
    const options = { ...user, cwd: folder };
    const settings = ['-U', DATABASE, '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    execFileSync(join(bin, 'initdb'), ['-D', folder, ...settings], { ...options, stdio: 'pipe' });
    const input = `CREATE DATABASE ${DATABASE};\n`;
    execFileSync(join(bin, 'postgres'), ['--single', '-D', folder, 'postgres'], { ...options, input, stdio: 'pipe' });
    symlinkSync(folder, this.#data);
  }
}
