// Java, the jars of the engines that run on it, and an archive of their classes that halves the time of a start.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Engine } from './engine.mjs';

/** Pulsar 4 needs 17; Cassandra 5 uses the security manager, which 24 has removed. */
const JAVA = { oldest: 17, newest: 23 };
/** Writing an archive takes some ten seconds. */
const ARCHIVING_MS = 180_000;
const POM = fileURLToPath(new URL('pom.xml', import.meta.url));

/** Where jars are kept, and what `npm run engines` starts. @returns {string} */
export function enginesHome() {
  return process.env.ENGINES_HOME ?? join(homedir(), '.cache', 'chatmesh-engines');
}

/** The first Java that fits: JAVA_HOME's, one of the system's, the path's. @returns {{ java: string, version: string } | undefined} */
function findJava() {
  const system = '/usr/lib/jvm';
  const installed = existsSync(system) ? readdirSync(system).sort() : [];
  const homes = installed.map((name) => join(system, name));
  if (process.env.JAVA_HOME) homes.unshift(process.env.JAVA_HOME);
  for (const java of [...homes.map((home) => join(home, 'bin', 'java')), 'java']) {
    const version = /version "([^"]+)"/.exec(spawnSync(java, ['-version'], { encoding: 'utf8' }).stderr ?? '')?.[1];
    const major = Number.parseInt(version ?? '', 10);
    if (version && major >= JAVA.oldest && major <= JAVA.newest) return { java, version };
  }
  return undefined;
}

/** The folder for an engine's jars; another version of them is another folder. @param {string} name */
function library(name) {
  const digest = createHash('sha256').update(readFileSync(POM)).digest('hex').slice(0, 12);
  return join(enginesHome(), 'lib', `${name}-${digest}`);
}

/** What is being made in this process, by path. @type {Map<string, Promise<string>>} */
const making = new Map();

/**
 * Calls `make` with a new path beside `path` and gives what it made that name, so that `path` is there whole or not at all.
 *
 * @param {string} path
 * @param {(temporary: string) => Promise<void>} make
 * @returns {Promise<string>} the path
 */
async function whole(path, make) {
  if (existsSync(path)) return path;
  const made = making.get(path) ?? makeWhole(path, make).finally(() => making.delete(path));
  making.set(path, made);
  return made;
}

/**
 * @param {string} path
 * @param {(temporary: string) => Promise<void>} make
 */
async function makeWhole(path, make) {
  const temporary = `${path}.${process.pid}`;
  await make(temporary);
  // Another process may have been faster with the same.
  if (existsSync(path)) rmSync(temporary, { recursive: true, force: true });
  else renameSync(temporary, path);
  return path;
}

/**
 * What is missing on this machine to run an engine on Java, one sentence each.
 *
 * @param {string} name of the engine
 * @returns {string[]}
 */
export function missingForJava(name) {
  const missing = [];
  if (!findJava())
    missing.push(
      `Java ${JAVA.oldest} to ${JAVA.newest} is needed (on Debian: apt-get install openjdk-17-jre-headless; on macOS: brew install openjdk@17); JAVA_HOME may name it.`,
    );
  if (!existsSync(library(name)) && spawnSync('mvn', ['-v']).status !== 0)
    missing.push(
      'Maven, which fetches the jars of the engines, is needed: there is no mvn (on Debian: apt-get install maven; on macOS: brew install maven).',
    );
  return missing;
}

/** An engine that runs on Java, from jars that Maven fetches once. */
export class JavaEngine extends Engine {
  /** Packages of Java's modules that it reaches into. @type {string[]} */
  static opens = [];
  /** Another engine of the same jars, whose archived classes serve this one, too. @type {typeof JavaEngine | undefined} */
  static model;
  /** Where the classes that it has loaded are to be archived when it ends. @type {string | undefined} */
  #archiving;

  /**
   * Its main class with everything that goes with it; files that it reads are written here.
   *
   * @protected
   * @returns {string[]}
   */
  javaArguments() {
    return [];
  }

  /** @override @protected */
  async command() {
    return this.java(this.javaArguments());
  }

  /**
   * How to run a class of the engine's jars.
   *
   * @protected
   * @param {string[]} mainArguments
   */
  async java(mainArguments) {
    const kind = /** @type {typeof JavaEngine} */ (this.constructor);
    const model = kind.model ?? kind;
    const found = findJava();
    if (!found) throw new Error(model.missing()[0]);
    const folder = await whole(library(model.engineName), (temporary) => fetchJars(model.engineName, temporary));
    const jars = readdirSync(folder).filter((name) => name.endsWith('.jar'));
    const classPath = jars
      .sort()
      .map((name) => join(folder, name))
      .join(':');
    const archive = join(folder, `classes-${found.version}.jsa`);
    if (!this.#archiving) await whole(archive, (temporary) => JavaEngine.archiveClasses(model, temporary));
    const args = [
      this.#archiving ? `-XX:ArchiveClassesAtExit=${this.#archiving}` : `-XX:SharedArchiveFile=${archive}`,
      '-Xlog:cds=off',
      '-Xlog:cds+dynamic=off',
      // A small heap, few cores: the simple collector. The second compiler costs more than it brings in the minutes of a test.
      '-XX:+UseSerialGC',
      ...(this.detached ? [] : ['-XX:TieredStopAtLevel=1']),
      '-XX:+ExitOnOutOfMemoryError',
      '-XX:-UsePerfData',
      ...model.opens.flatMap((name) => [`--add-opens=${name}=ALL-UNNAMED`, `--add-exports=${name}=ALL-UNNAMED`]),
      '-cp',
      classPath,
      ...mainArguments,
    ];
    return { command: found.java, args };
  }

  /**
   * Starts one like this, and ends it in good order, which is when Java writes the archive.
   *
   * @param {typeof JavaEngine} model
   * @param {string} file
   */
  static async archiveClasses(model, file) {
    console.error(`Archiving the classes of ${model.engineName}, once: later starts take half the time.`);
    const engine = new model({ directory: mkdtempSync(join(tmpdir(), `chatmesh-${model.engineName}-`)) });
    engine.#archiving = file;
    try {
      await engine.start();
      await engine.stop({ timeoutMs: ARCHIVING_MS });
    } finally {
      await engine.wipe();
    }
  }
}

/**
 * @param {string} name
 * @param {string} folder to put them into
 */
async function fetchJars(name, folder) {
  console.error(`Fetching the jars of ${name}, once, into ${folder}.`);
  mkdirSync(folder, { recursive: true });
  const goal = ['dependency:copy-dependencies', `-DoutputDirectory=${folder}`, '-DincludeScope=runtime'];
  const maven = spawn('mvn', ['-B', '-q', '-f', POM, `-P${name}`, ...goal], { stdio: ['ignore', 2, 2] });
  const [code] = await once(maven, 'exit');
  if (code !== 0) throw new Error(`Maven could not fetch the jars of ${name}; see above.`);
}

/** @param {Record<string, unknown>} settings @returns {string} as Java's .properties */
export const properties = (settings) =>
  Object.entries(settings)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('');
