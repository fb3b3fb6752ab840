// `npm run check`: everything that a change must pass, in the order in which it is cheap to find out.
// `npm run check -- lint types` runs just these steps. The first failure ends the run and says what to do next.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'node_modules', '.bin');
const environment = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };

/** Runs a command in the repository and shows what it says. @returns {boolean} whether it succeeded */
function run(command, ...args) {
  const { status, error } = spawnSync(command, args, { cwd: root, env: environment, stdio: 'inherit' });
  if (error) console.error(error.message);
  return status === 0;
}

/** @returns {string} what git prints; '' where it fails, as outside of a repository or for an unknown revision */
function git(...args) {
  try {
    return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return '';
  }
}

/** Calls `use` with an empty folder that is gone afterwards. */
function withTemporaryFolder(use) {
  const folder = mkdtempSync(join(tmpdir(), 'chatmesh-check-'));
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @returns {string[]} the files below `folder`, relative to it */
function filesBelow(folder) {
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => statSync(join(folder, name)).isFile()).sort();
}

/** A change that is not committed is compared with the last commit, a committed one with the commit before it. */
function contractStaysCompatible() {
  const changed = git('status', '--porcelain', '--', 'proto', 'buf.yaml') !== '';
  const base = git('rev-parse', '--verify', '--quiet', changed ? 'HEAD' : 'HEAD^');
  if (base === '' || git('ls-tree', base, 'buf.yaml') === '') {
    console.log('Skipped: there is no earlier commit with a contract to compare with.');
    return true;
  }
  console.log(`Compared with ${git('log', '-1', '--format=%h "%s"', base)}.`);
  return withTemporaryFolder((earlier) => {
    const archive = join(earlier, 'contract.tar');
    return (
      run('git', 'archive', '--output', archive, base, 'proto', 'buf.yaml') &&
      run('tar', '-xf', archive, '-C', earlier) &&
      run('buf', 'breaking', '--against', earlier)
    );
  });
}

/** Generates into a folder of its own, so that the tree is only looked at. */
function generatedCodeIsCurrent() {
  return withTemporaryFolder((folder) => {
    if (!run('buf', 'generate', '--output', folder)) return false;
    const fresh = join(folder, 'gen', 'src');
    const committed = join(root, 'gen', 'src');
    const names = [...new Set([...filesBelow(fresh), ...filesBelow(committed)])];
    const differing = names.filter((name) => {
      const [one, other] = [join(fresh, name), join(committed, name)];
      return !existsSync(one) || !existsSync(other) || !readFileSync(one).equals(readFileSync(other));
    });
    for (const name of differing) console.error(`differs: ${relative(root, join(committed, name))}`);
    return differing.length === 0;
  });
}

/** What we declare of pulsar-client is what that optional package has. Where it is not installed there is nothing to compare. */
function pulsarApiAgrees() {
  if (existsSync(join(root, 'node_modules', 'pulsar-client'))) return run('tsc', '-p', 'scripts/pulsar-api');
  console.log(
    'Skipped: pulsar-client is not installed, so its types cannot be compared with packages/mesh/pulsar-api.ts.',
  );
  return true;
}

const steps = [
  {
    name: 'contract',
    what: 'The contract is well-formed (buf lint)',
    passes: () => run('buf', 'lint'),
    next: 'Mend the .proto files named above.',
  },
  {
    name: 'breaking',
    what: 'The contract stays compatible (buf breaking)',
    passes: contractStaysCompatible,
    next:
      'Give the field or method a new number or name and keep the old one. A break that is meant is listed under ' +
      'breaking.ignore_only in buf.yaml, where a reviewer sees it.',
  },
  {
    name: 'generated',
    what: 'Generated code is what the contract says',
    passes: generatedCodeIsCurrent,
    next: 'Run `npm run generate` and commit gen/.',
  },
  {
    name: 'lint',
    what: 'Lint and format (biome)',
    passes: () => run('npm', 'run', '--silent', 'lint'),
    next: 'Run `npm run format`; what it leaves is for you to mend.',
  },
  {
    name: 'types',
    what: 'Types (tsc)',
    // The engines first: see the tsconfig.json of tests and bench for why they do not refer to it.
    passes: () => run('tsc', '-b', 'scripts/engines') && run('tsc', '-b') && pulsarApiAgrees(),
    next: 'Mend the errors above; `npx tsc -b <workspace>` compiles one workspace and what it needs.',
  },
  {
    name: 'imports',
    what: 'Import directions (dependency-cruiser)',
    passes: () => run('depcruise', '--config', '.dependency-cruiser.mjs', 'gen/src', 'packages', 'services'),
    next: 'Move the code to where it may import what it needs; .dependency-cruiser.mjs says what each rule protects.',
  },
  {
    name: 'tests',
    what: 'Tests that need Node alone (jest)',
    passes: () => run('npm', 'test', '--silent'),
    next: 'Run the failing file alone: `npm test -- test/dist/<path>.test.js`.',
  },
  {
    name: 'system',
    what: 'Tests that need more: Chromium, strace, a small disk (jest)',
    passes: () => run('npm', 'run', 'test:system', '--silent'),
    next: 'Install what a test says it misses, or run it alone: `npm run test:system -- test/dist/system/<name>.test.js`.',
  },
  {
    name: 'engines',
    what: 'Tests on real engines: Pulsar, Cassandra, Redis, PostgreSQL (jest)',
    passes: () => run('npm', 'run', 'test:engines', '--silent'),
    next: 'Install what it misses, or run a file alone: `npm run test:engines -- test/dist/engines/<name>.test.js`.',
  },
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !steps.some((step) => step.name === name));
if (unknown.length > 0) {
  console.error(`No such step: ${unknown.join(', ')}. There are: ${steps.map(({ name }) => name).join(', ')}.`);
  process.exit(2);
}

const chosen = steps.filter(({ name }) => wanted.length === 0 || wanted.includes(name));
const startedMs = performance.now();
const secondsSince = (ms) => `${((performance.now() - ms) / 1000).toFixed(1)} s`;

for (const [index, { name, what, passes, next }] of chosen.entries()) {
  console.log(`\n=== ${index + 1}/${chosen.length} ${name}: ${what}`);
  const stepStartedMs = performance.now();
  if (!passes()) {
    console.error(`\n=== ${name} failed after ${secondsSince(stepStartedMs)}. ${next}`);
    process.exit(1);
  }
  console.log(`--- ${name} passed in ${secondsSince(stepStartedMs)}`);
}
console.log(`\n=== All passed in ${secondsSince(startedMs)}.`);
