import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** Runs a tool of the repository in `cwd`. Its verdict is in its output; the exit code only repeats it. */
function run(tool: string, args: string[], cwd: string): Promise<string> {
  return new Promise((resolve) => {
    execFile('node', [join(root, 'node_modules', tool), ...args], { cwd, maxBuffer: 1 << 26 }, (_, stdout) =>
      resolve(stdout),
    );
  });
}

/** Each rule, and a file that breaks it by what it holds. */
const cruised: [rule: string, file: string, source: string][] = [
  ['gen-stands-alone', 'gen/src/planted.ts', "import '@chatmesh/mesh';"],
  ['mesh-imports-gen-only', 'packages/mesh/planted-service.ts', "import '../../services/chat/planted.js';"],
  ['mesh-imports-gen-only', 'packages/mesh/planted-sdk.ts', "import '@chatmesh/sdk';"],
  ['sdk-imports-gen-only', 'packages/sdk/planted.ts', "import '@chatmesh/mesh';"],
  ['cli-imports-no-service', 'packages/cli/planted.ts', "import '@chatmesh/presence';"],
  ['services-import-gen-and-mesh-only', 'services/edge/planted-sdk.ts', "import '@chatmesh/sdk';"],
  ['services-import-gen-and-mesh-only', 'services/edge/planted-test.ts', "import '../../test/planted.js';"],
  ['services-never-import-each-other', 'services/edge/planted.ts', "import '../chat/planted.js';"],
  ['services-never-import-each-other', 'services/edge/planted-built.ts', "import '@chatmesh/user';"],
  ['services-never-import-each-other', 'services/edge/planted-unbuilt.ts', "import '@chatmesh/presence';"],
  [
    'services-never-import-each-other',
    'services/edge/planted-type.ts',
    "import type { P } from '../chat/planted.js'; export const p: P = 1;",
  ],
  ['services-never-import-each-other', 'services/edge/planted-late.ts', "await import('../chat/planted.js');"],
  ['domain-without-io', 'services/chat/domain/planted-io.ts', "import 'node:fs';"],
  ['domain-without-io', 'services/chat/domain/planted-store.ts', "import '../planted.js';"],
  ['domain-without-io', 'services/chat/domain/planted-mesh.ts', "import '@chatmesh/mesh/lmdb';"],
  ['domain-without-io', 'services/chat/domain/planted-library.ts', "import 'kysely';"],
  ['driver-lmdb', 'services/chat/stores/planted.ts', "import { open } from 'lmdb'; open({});"],
  [
    'driver-lmdb',
    'services/chat/stores/planted-type.ts',
    "import type { Database } from 'lmdb'; export type D = Database;",
  ],
  ['driver-ioredis', 'services/presence/stores/planted.ts', "import 'ioredis';"],
  ['driver-cassandra-driver', 'services/chat/stores/planted-cassandra.ts', "import 'cassandra-driver';"],
  ['driver-pulsar-client', 'services/chat/stores/planted-pulsar.ts', "import 'pulsar-client';"],
  ['driver-pg', 'services/user/stores/planted-pg.ts', "import 'pg';"],
  ['driver-electric-sql', 'services/user/planted.ts', "import '@electric-sql/pglite';"],
];

const linted: [rule: string, file: string, source: string][] = [
  ['noRestrictedGlobals', 'services/chat/planted-process.ts', 'export const pid = process.pid;\n'],
  [
    'noRestrictedImports',
    'packages/mesh/planted-process.ts',
    "import { env } from 'node:process';\n\nexport { env };\n",
  ],
  [
    'noRestrictedImports',
    'services/chat/domain/planted-process.ts',
    "import { pid } from 'node:process';\n\nexport { pid };\n",
  ],
  [
    'noRestrictedImports',
    'services/chat/domain/planted-lifecycle.ts',
    "import { Mailbox } from '@chatmesh/mesh';\n\nexport { Mailbox };\n",
  ],
];

const allowed: [file: string, source: string][] = [
  ['services/main.ts', "import '@chatmesh/user';\nimport '@chatmesh/presence';\n\nexport const pid = process.pid;\n"],
  ['services/migrate.ts', "import '@chatmesh/user/migrate';\n\nexport const argv = process.argv;\n"],
  ['packages/cli/planted-main.ts', "import '@chatmesh/sdk';\n\nexport const pid = process.pid;\n"],
  ['services/chat/domain/planted-allowed.ts', "import { MeshError } from '@chatmesh/mesh';\n\nexport { MeshError };\n"],
  ['services/chat/domain/planted-hash.ts', "import { hash } from 'node:crypto';\n\nexport { hash };\n"],
];

describe('import directions', () => {
  const copy = realpathSync(mkdtempSync(join(tmpdir(), 'chatmesh-imports-')));
  const plant = (file: string, source: string) => {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    writeFileSync(join(copy, file), source);
  };
  const cruise = async (): Promise<{ rule: string; from: string }[]> => {
    const args = ['--config', '.dependency-cruiser.mjs', '--output-type', 'json', 'gen/src', 'packages', 'services'];
    const output = await run('dependency-cruiser/bin/dependency-cruise.mjs', args, copy);
    const { summary } = JSON.parse(output) as { summary: { violations: { rule: { name: string }; from: string }[] } };
    return summary.violations.map(({ rule, from }) => ({ rule: rule.name, from }));
  };

  beforeAll(() => {
    const sources = (path: string) => !['dist', 'node_modules'].includes(basename(path));
    for (const folder of ['gen/src', 'packages', 'services']) {
      cpSync(join(root, folder), join(copy, folder), { recursive: true, filter: sources });
    }
    for (const file of ['.dependency-cruiser.mjs', 'biome.json']) cpSync(join(root, file), join(copy, file));
    mkdirSync(join(copy, 'node_modules/@chatmesh'), { recursive: true });
    for (const name of ['lmdb', '@electric-sql']) {
      symlinkSync(join(root, 'node_modules', name), join(copy, 'node_modules', name));
    }
    // One neighbour as it looks when built, the others as on a fresh clone.
    symlinkSync('../../services/user', join(copy, 'node_modules/@chatmesh/user'));
    plant('services/user/dist/index.js', '');
  });
  afterAll(() => rmSync(copy, { recursive: true, force: true }));

  test('hold in the repository as it is', async () => {
    expect(await cruise()).toEqual([]);
  });

  test('every planted violation is found, and nothing that is allowed', async () => {
    for (const [file, source] of allowed) plant(file, source);
    for (const target of ['services/chat', 'test']) plant(`${target}/planted.ts`, 'export type P = number;');
    for (const [, file, source] of cruised) plant(file, source);
    // The only home of PGlite is a folder: there, the second importer is one too many.
    for (const name of ['one', 'two'])
      plant(`services/user/stores/planted-${name}.ts`, "import '@electric-sql/pglite';");

    const found = await cruise();
    const missed = cruised.filter(([name, file]) => !found.some(({ rule, from }) => rule === name && from === file));
    expect(missed).toEqual([]);
    expect(found.map(({ rule }) => rule)).toContain('driver-in-one-file');
    expect(found.filter(({ from }) => allowed.some(([file]) => file === from))).toEqual([]);
  });

  test('only main files touch the process, and a domain takes only errors from the mesh', async () => {
    for (const [, file, source] of linted) plant(file, source);
    for (const [file, source] of allowed) plant(file, source);
    const files = [...linted.map(([, file]) => file), ...allowed.map(([file]) => file)];
    const args = ['lint', '--reporter=json', '--max-diagnostics=none', ...files];
    const { diagnostics } = JSON.parse(await run('@biomejs/biome/bin/biome', args, copy)) as {
      diagnostics: { category: string; location: { path: string | { file: string } } }[];
    };
    const found = diagnostics.map(({ category, location: { path } }) => ({
      rule: basename(category),
      file: typeof path === 'string' ? path : path.file,
    }));
    expect(found).toEqual(expect.arrayContaining(linted.map(([rule, file]) => ({ rule, file }))));
    expect(found).toHaveLength(linted.length);
  });
});
