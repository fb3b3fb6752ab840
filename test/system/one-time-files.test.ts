import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const moduleOf = (name: string) =>
  JSON.stringify(pathToFileURL(createRequire(import.meta.url).resolve(name.replace('.', '@chatmesh/'))).href);
/** Opens the router's embedded stores for the first time. */
const program = `
  import { writeSync } from 'node:fs';
  const { createLogger, EnvReader, Metrics } = await import(${moduleOf('.mesh')});
  const { ChatService, readConfig } = await import(${moduleOf('.chat')});
  const deps = { logger: createLogger({ name: 'test', level: 'silent' }), metrics: new Metrics({ processMetrics: false }) };
  await ChatService.create(readConfig(new EnvReader({ DATA_DIR: process.argv[1] })), deps);
  writeSync(2, 'open');
  process.kill(process.pid, 'SIGKILL');
`;

let root: string;
let directory: string;
/** Until the stores were open, in order, each as `mkdir PATH`, `flush PATH` or `rename FROM TO`. */
let steps: string[];

beforeAll(async () => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'chatmesh-once-')));
  const dataDir = join(root, 'deep', 'data');
  directory = join(dataDir, 'chat');
  const trace = join(root, 'trace');
  await promisify(execFile)('strace', [
    ...['-f', '-y', '-s', '512', '-e', 'trace=/mkdir,/rename,fsync,fdatasync,write', '-e', 'signal=none', '-o', trace],
    ...[process.execPath, '--input-type=module', '-e', program, dataDir],
  ]).catch((error) => {
    if (error.code === 'ENOENT')
      throw new Error(
        'this test watches system calls, and there is no strace: install it (on Debian: apt-get install -y strace)',
      );
    if (error.signal !== 'SIGKILL') throw new Error(`strace does not run here: ${error.stderr}`);
  });
  steps = read(readFileSync(trace, 'utf8'));
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

function read(trace: string): string[] {
  const found: string[] = [];
  for (const line of trace.split('\n')) {
    const quoted = [...line.matchAll(/"([^"]*)"/g)].map(([, text]) => text as string);
    const [, flushed] = /\bf(?:data)?sync\(\d+<([^>]*)>/.exec(line) ?? [];
    if (/\bwrite\(2[<,].*"open"/.test(line)) return found;
    if (/ mkdir(at)?\(/.test(line) && line.endsWith(' = 0')) found.push(`mkdir ${quoted[0]}`);
    else if (/ rename\w*\(/.test(line) && line.endsWith(' = 0')) found.push(`rename ${quoted.join(' ')}`);
    else if (flushed !== undefined) found.push(`flush ${flushed}`);
  }
  throw new Error(`the traced program did not come to its end:\n${trace.slice(-2000)}`);
}

/** Whether these happened, one after another. */
function inOrder(...wanted: string[]): boolean {
  let from = 0;
  return wanted.every((step) => {
    from = steps.indexOf(step, from) + 1;
    return from > 0;
  });
}

describe('what is written once, at the first start', () => {
  test.each(['FORMAT', 'fingerprint.key'])(
    '%s is on the disk, and so is its name, before a message is accepted',
    (name) => {
      const file = join(directory, name);
      expect(steps).toContain(`flush ${file}.new`);
      expect(inOrder(`flush ${file}.new`, `rename ${file}.new ${file}`, `flush ${directory}`)).toBe(true);
    },
  );

  test('the data is on the disk before the file that vouches for it', () => {
    expect(
      inOrder(
        `flush ${join(directory, 'data.mdb')}`,
        `rename ${join(directory, 'FORMAT')}.new ${join(directory, 'FORMAT')}`,
      ),
    ).toBe(true);
  });

  test('so are the names of the directories that were made', () => {
    for (let made = directory; made !== root; made = dirname(made))
      expect([made, inOrder(`mkdir ${made}`, `flush ${dirname(made)}`)]).toEqual([made, true]);
  });
});
