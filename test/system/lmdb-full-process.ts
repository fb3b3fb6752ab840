// A program that fills the disk under an environment and says as JSON what became of its writes.
import { LmdbEnvironment, rowOfBytes } from '@chatmesh/mesh/lmdb';
import { SmallDisk } from './lmdb-small-disk.js';

const disk = new SmallDisk(process.argv[2] as string);
let environment = LmdbEnvironment.open(disk.directory);
let table = environment.table('table');
const acknowledged: string[] = [];
let unhandled = 0;
process.on('unhandledRejection', () => unhandled++);

/** Writes values of 100,000 bytes, the last digit of their keys repeated, all in one group. */
async function put(keys: string[]): Promise<{ kind: string; message: string } | undefined> {
  const writes = keys.map((key) => environment.write(() => table.put(Buffer.from(key), rowOfBytes(contentOf(key)))));
  const outcomes = await Promise.allSettled(writes);
  const refused = outcomes.find((outcome) => outcome.status === 'rejected');
  if (!refused) acknowledged.push(...keys);
  return refused && { kind: refused.reason.kind, message: refused.reason.message };
}

const contentOf = (key: string) => Buffer.alloc(100_000, key.at(-1) as string);
const keys = (prefix: string, count: number) => Array.from({ length: count }, (_, n) => `${prefix}-${n}`);

disk.fill(30);
let refused: Awaited<ReturnType<typeof put>>;
let groups = 0;
while (!refused && groups < 1000) refused = await put(keys(`group-${groups++}`, 2));
const again = [await put(['again-1']), await put(['again-2'])];
const failure = environment.failure?.message;
disk.makeRoom();
const after = [await put(['after-1']), await put(['after-2'])];
// One group that needs more than there is: here LMDB itself meets the end of the disk.
disk.fill(20);
const large = await put(keys('large', 300));
disk.makeRoom();
const last = await put(['last-1']);
const recovered = environment.failure === undefined;

await environment[Symbol.asyncDispose]();
environment = LmdbEnvironment.open(disk.directory);
table = environment.table('table');
const lost = acknowledged.filter((key) => {
  const value = table.get(Buffer.from(key));
  return !(value instanceof Buffer) || !value.equals(contentOf(key));
});
const untold = ['again-1', 'again-2', 'large-1'].filter((key) => table.get(Buffer.from(key)));
console.log(
  JSON.stringify({ groups, refused, again, failure, after, large, last, recovered, unhandled, lost, untold }),
);
