import { execFile } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { LmdbEnvironment, rowOfBytes } from '@chatmesh/mesh/lmdb';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { freeWords } from '../damages.js';

const PAGE = 4096;
const KEYS = 400;
const lmdb = pathToFileURL(createRequire(import.meta.url).resolve('@chatmesh/mesh/lmdb')).href;

let root: string;
let sound: string;
let directory: string;
let file: string;

/** Values of 0 to 3 KiB: some lie within a leaf page, some on a page of their own. */
const contentOf = (key: number) => Buffer.alloc((key * 37) % 3000, key);
const keyOf = (key: number) => Buffer.from(`key-${key}`);

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'chatmesh-damage-'));
  sound = join(root, 'sound');
  await using environment = LmdbEnvironment.open(sound);
  const [table, gone] = [environment.table('table'), environment.sequence('gone')];
  for (let from = 0; from < KEYS; from += 100) {
    await environment.write(() => {
      for (let key = from; key < from + 100; key++) {
        table.put(keyOf(key), rowOfBytes(contentOf(key)));
        gone.put(key, rowOfBytes(contentOf(key)));
      }
    });
  }
  // So that the file has pages that are not in use any more, too.
  await environment.write(() => {
    for (let key = 0; key < KEYS; key++) gone.remove(key);
  });
});

beforeEach(() => {
  directory = mkdtempSync(join(root, 'copy-'));
  cpSync(sound, directory, { recursive: true });
  file = join(directory, 'data.mdb');
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Opens in a process of its own, since memory-mapped damage ends one by a signal. */
async function open(): Promise<string> {
  const program = `
    const { LmdbEnvironment } = await import(${JSON.stringify(lmdb)});
    try {
      LmdbEnvironment.open(process.argv[1]);
      console.log('opened');
    } catch (error) {
      console.log(error.kind + ': ' + error.message);
    }
  `;
  const run = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', program, directory]);
  return run.stdout.trim();
}

/** Noise that is the same in every run. */
function noise(bytes: number, seed: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let i = 0, x = seed + 1; i < bytes; i++) {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    buffer[i] = x >>> 16;
  }
  return buffer;
}

function overwrite(firstPage: number, pages: number, content = noise(pages * PAGE, firstPage)): void {
  const descriptor = openSync(file, 'r+');
  writeSync(descriptor, content, 0, content.length, firstPage * PAGE);
  closeSync(descriptor);
}

const damages: [string, () => void][] = [
  ['that was truncated to half', () => truncateSync(file, statSync(file).size / 2)],
  ['that was truncated within its first page', () => truncateSync(file, 100)],
  ['whose first page is garbage', () => overwrite(0, 1)],
  ['whose second page is garbage', () => overwrite(1, 1)],
  ['whose first page is empty', () => writeFileSync(file, Buffer.alloc(PAGE), { flag: 'r+' })],
  ['whose middle is garbage', () => overwrite(Math.floor(statSync(file).size / PAGE / 3), 40)],
  ['that is empty', () => truncateSync(file, 0)],
  ['of something else', () => writeFileSync(file, 'not a database\n'.repeat(1000))],
];

describe('opening a data file', () => {
  test('that is sound succeeds', async () => {
    expect(await open()).toBe('opened');
  });

  test.each(damages)('%s is refused by the name of the file, and the file is left as it is', async (_, damage) => {
    damage();
    const before = readFileSync(file);
    expect(await open()).toMatch(/^failed_precondition: /);
    expect(await open()).toContain(file);
    expect(readFileSync(file).equals(before)).toBe(true);
  });

  test('that is gone although the store existed is refused, and no new one is made', async () => {
    unlinkSync(file);
    const refusal = await open();
    expect(refusal).toMatch(/^failed_precondition: /);
    expect(refusal).toContain(file);
    expect(() => statSync(file)).toThrow('ENOENT');
  });

  test('of another format is refused', async () => {
    writeFileSync(join(directory, 'FORMAT'), 'chatmesh lmdb 999\n');
    expect(await open()).toMatch(/^failed_precondition: .*FORMAT/);
  });

  test('with garbage in any one page is refused, unless the page was not in use and nothing is missing', async () => {
    const pages = statSync(file).size / PAGE;
    const content = readFileSync(file);
    let refused = 0;
    for (let page = 0; page < pages; page++) {
      overwrite(page, 1);
      try {
        await using environment = LmdbEnvironment.open(directory);
        const table = environment.table('table');
        for (let key = 0; key < KEYS; key++) {
          const value = table.get(keyOf(key));
          if (!(value instanceof Buffer) || !value.equals(contentOf(key)))
            throw new Error(`page ${page} hides the damage of ${key}`);
        }
      } catch (error) {
        expect(error).toMatchObject({ kind: 'failed_precondition', message: expect.stringContaining(file) });
        refused++;
      }
      overwrite(page, 1, content.subarray(page * PAGE, (page + 1) * PAGE));
    }
    expect(refused).toBeGreaterThan(pages / 3);
  });

  /** Opens a file whose bytes were altered, and returns the refusal. */
  async function refusalOf(alter: (bytes: Buffer) => void): Promise<string> {
    const bytes = readFileSync(file);
    alter(bytes);
    writeFileSync(file, bytes);
    const refusal = await open();
    expect(refusal).toMatch(/^failed_precondition: /);
    expect(refusal).toContain(file);
    return refusal;
  }

  /** A page of the newest snapshot that is in use: the first one of its main tree. */
  const pageInUse = (bytes: Buffer) => {
    const newest = bytes.readBigUInt64LE(152) > bytes.readBigUInt64LE(PAGE + 152) ? 0 : PAGE;
    return bytes.readUInt32LE(newest + 96 + 40);
  };

  test('whose list of free pages names a page in use is refused, and the page is named', async () => {
    let page = 0;
    const refusal = await refusalOf((bytes) => {
      page = pageInUse(bytes);
      bytes.writeBigInt64LE(BigInt(page), freeWords(bytes).find((at) => bytes.readBigInt64LE(at) > 0n) as number);
    });
    expect(refusal).toContain(`page ${page} is in use twice, or in use and free`);
  });

  test('whose list of free pages names a page twice is refused', async () => {
    const refusal = await refusalOf((bytes) => {
      const [first, second] = freeWords(bytes).filter((at) => bytes.readBigInt64LE(at) > 0n) as [number, number];
      bytes.copy(bytes, first, second, second + 8);
    });
    expect(refusal).toMatch(/page \d+ is in use twice, or in use and free/);
  });

  test('whose list of free pages names a page that is not there is refused', async () => {
    const refusal = await refusalOf((bytes) => {
      bytes.writeBigInt64LE(1_000_000n, freeWords(bytes)[0] as number);
    });
    expect(refusal).toContain('something points to page 1000000');
  });

  test('with two keys in the wrong order is refused, and their page is named', async () => {
    let page = 0;
    const refusal = await refusalOf((bytes) => {
      const at = bytes.lastIndexOf('key-39');
      page = Math.floor(at / PAGE);
      const pointers = page * PAGE + 24;
      const [first, second] = [bytes.readUInt16LE(pointers), bytes.readUInt16LE(pointers + 2)];
      bytes.writeUInt16LE(second, pointers);
      bytes.writeUInt16LE(first, pointers + 2);
    });
    expect(refusal).toContain(`page ${page} has keys out of order`);
  });

  test('whose table has another name is refused: it would read as empty', async () => {
    const refusal = await refusalOf((bytes) => {
      for (let at = bytes.indexOf('table#'); at >= 0; at = bytes.indexOf('table#', at + 1)) bytes.write('tabla', at);
    });
    expect(refusal).toContain('holds a damaged name of a table');
  });

  test('whose newest meta page claims to be an older one is refused: what was written last would be lost', async () => {
    await refusalOf((bytes) => {
      const newest = bytes.readBigUInt64LE(152) > bytes.readBigUInt64LE(PAGE + 152) ? 0 : PAGE;
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(newest + 152) - 2n, newest + 152);
    });
  });
});

describe('a data file that was closed in order', () => {
  const mark = () => join(directory, 'CLEAN');

  async function openAndClose(): Promise<void> {
    await LmdbEnvironment.open(directory)[Symbol.asyncDispose]();
  }

  test('bears a mark, which goes before anything is written and does not come back after a crash', async () => {
    await openAndClose();
    expect(existsSync(mark())).toBe(true);
    // The process ends without closing.
    expect(await open()).toBe('opened');
    expect(existsSync(mark())).toBe(false);
  });

  test('is looked through all the same where it was altered since', async () => {
    await openAndClose();
    overwrite(Math.floor(statSync(file).size / PAGE / 3), 40);
    expect(await open()).toContain(file);
  });
});
