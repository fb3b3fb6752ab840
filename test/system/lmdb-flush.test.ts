import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';

const GROUPS = 10;
const MESSAGES = 1000;

const lmdb = pathToFileURL(createRequire(import.meta.url).resolve('@chatmesh/mesh/lmdb')).href;
/** Writes its messages in groups and says on stderr, by a system call of its own, when each group has resolved. */
const program = `
  import { writeSync } from 'node:fs';
  const { LmdbEnvironment, newRow } = await import(${JSON.stringify(lmdb)});
  const environment = LmdbEnvironment.open(process.argv[1]);
  const table = environment.sequence('events');
  writeSync(2, 'opened');
  for (let group = 0; group < ${GROUPS}; group++) {
    const writes = [];
    for (let i = 0; i < ${MESSAGES / GROUPS}; i++) {
      writes.push(environment.write(() => table.put(group * 1000 + i, newRow(200))));
    }
    await Promise.all(writes);
    writeSync(2, 'resolved');
  }
  writeSync(2, 'done');
  process.kill(process.pid, 'SIGKILL');
`;

/** What happened between opening and the end, in order: a call counts when it has returned. */
type Step = 'resolved' | 'flush' | 'snapshot';

let root: string;
let steps: Step[];

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'chatmesh-flush-'));
  const trace = join(root, 'trace');
  const calls = 'trace=openat,write,fdatasync,fsync,msync,sync_file_range,pwrite64';
  await promisify(execFile)('strace', [
    ...['-f', '-s', '16', '-e', calls, '-e', 'signal=none', '-o', trace],
    ...[process.execPath, '--input-type=module', '-e', program, join(root, 'data')],
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

/** Reads the trace: strace sees a call's return before the thread that made it goes on. */
function read(trace: string): Step[] {
  let found: Step[] = [];
  let snapshotFile = '';
  const unfinished = new Map<string, string>();
  for (const line of trace.split('\n')) {
    const [, thread = '', text = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
    let call = text;
    if (text.endsWith('<unfinished ...>')) {
      unfinished.set(thread, text.slice(0, -'<unfinished ...>'.length));
      // What the program says counts from its beginning: later would hide that it came too early.
      if (!text.startsWith('write(2')) continue;
      call = `${text} = 1`;
    } else if (text.startsWith('<... ')) {
      call = `${unfinished.get(thread) ?? ''}${text.replace(/^<\.\.\. \w+ resumed>/, '')}`;
      if (call.startsWith('write(2')) continue;
    }
    const opened = /^openat\(.*data\.mdb.*O_DSYNC.* = (\d+)$/.exec(call);
    if (opened) snapshotFile = opened[1] as string;
    if (call.startsWith('write(2, "opened"')) found = [];
    else if (call.startsWith('write(2, "resolved"')) found.push('resolved');
    else if (/^(fdatasync|fsync|msync|sync_file_range)\(.* = 0$/.test(call)) found.push('flush');
    else if (call.startsWith(`pwrite64(${snapshotFile},`)) found.push('snapshot');
    else if (call.startsWith('write(2, "done"')) return found;
  }
  throw new Error(`the traced program did not come to its end:\n${trace.slice(-2000)}`);
}

describe('group commit', () => {
  test('a write resolves only after its pages are flushed and the snapshot that shows them is on the disk', () => {
    let flushed = 0;
    let shown = 0;
    let resolved = 0;
    for (const step of steps) {
      if (step === 'flush') flushed++;
      else if (step === 'snapshot') shown = flushed;
      else {
        resolved++;
        expect(shown).toBeGreaterThanOrEqual(resolved);
      }
    }
    expect(resolved).toBe(GROUPS);
  });

  test('flushes come once per group, not once per message', () => {
    const count = (kind: Step) => steps.filter((step) => step === kind).length;
    expect(count('flush')).toBeGreaterThanOrEqual(GROUPS);
    expect(count('flush')).toBeLessThanOrEqual(GROUPS + 2);
    expect(count('snapshot')).toBeLessThanOrEqual(GROUPS + 2);
  });
});
