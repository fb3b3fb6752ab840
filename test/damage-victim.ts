// A program that runs a router on data that may be damaged, which may end it by a signal. For each directory that is named on stdin
// it says on stdout, in one line of JSON, what became of the messages that waited there and of new ones. With the argument
// "prepare" it makes such data instead, and says what it had to say of each message when it is to be killed.
import { createInterface } from 'node:readline';
import { MeshError } from '@chatmesh/mesh';
import { type Answer, DamagedRouter, type Delivered } from './damage-router.js';
import { messages, UNHANDLED, waitingMessages } from './damage-world.js';

/** What became of one directory. */
export interface Outcome {
  /** Why the start was refused; the rest is empty then. */
  readonly refused: string;
  readonly delivered: readonly Delivered[];
  readonly failed: readonly string[];
  /** To the same messages, sent again. */
  readonly repeats: readonly Answer[];
  readonly fresh: readonly Answer[];
  /** After another start, when all of those before are confirmed. */
  readonly later: readonly Delivered[];
  readonly damagedRows: number;
  readonly log: readonly string[];
}

const PER_PAIR_LATER = 4;

async function outcomeOf(dataDir: string): Promise<Outcome> {
  let refused = '';
  const nothing = { delivered: [], failed: [], repeats: [], fresh: [], later: [], damagedRows: 0, log: [] };
  const start = () =>
    DamagedRouter.start(dataDir).catch((error) => {
      if (!(error instanceof MeshError) || error.kind !== 'failed_precondition') throw error;
      refused = error.message;
    });
  const router = await start();
  if (!router) return { ...nothing, refused };
  await router.drain(true);
  const repeats = await router.send(waitingMessages());
  const delivered = [...router.delivered];
  router.confirmNothing();
  const fresh = await router.send(messages('fresh', PER_PAIR_LATER));
  const damagedRows = await router.damagedRows();
  const { failed, lines: log } = router;
  await router[Symbol.asyncDispose]();
  const again = await start();
  if (!again) throw new Error(`the second start is refused: ${refused}`);
  await again.drain(false);
  const { delivered: later } = again;
  await again[Symbol.asyncDispose]();
  return { refused, delivered, failed: [...failed], repeats, fresh, later, damagedRows, log };
}

if (process.argv[2] === 'prepare') {
  const dataDir = process.argv[3] as string;
  const before = await DamagedRouter.start(dataDir);
  await before.drain(true);
  await before.send(messages('before', 5));
  await before.leftOnLog(0);
  await before[Symbol.asyncDispose]();
  const router = await DamagedRouter.start(dataDir, UNHANDLED);
  const waiting = waitingMessages();
  const answers: Answer[] = [];
  for (const end of [waiting.length / 2, waiting.length]) {
    answers.push(...(await router.send(waiting.slice(answers.length, end))));
    await router.leftOnLog(waiting.slice(0, end).filter(({ to }) => to === UNHANDLED).length);
    console.log(JSON.stringify(answers));
    if (end < waiting.length) for await (const _ of createInterface({ input: process.stdin })) break;
  }
  setInterval(() => {}, 1000);
} else {
  for await (const dataDir of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await outcomeOf(dataDir)));
  }
  process.exit(0);
}
