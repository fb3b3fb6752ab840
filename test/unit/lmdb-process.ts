import { LmdbEnvironment } from '@chatmesh/mesh/lmdb';

/** What the test asks of {@link LmdbProcess}'s other side. */
export interface Puts {
  readonly keys: readonly string[];
  /** Bytes of each value: the last byte of its key, repeated. */
  readonly bytes: number;
}

/** What became of them, or what went wrong behind the back of every caller. */
export type Answer = { readonly kind?: string; readonly message?: string } | { readonly unhandled: string };

// A program: writes into the environment in argv[2] what its parent asks for, all keys of a request in one group.
if (process.send) {
  const environment = LmdbEnvironment.open(process.argv[2] as string);
  const table = environment.table('table');
  const answer = (text: Answer) => process.send?.(text);
  process.on('unhandledRejection', (reason) => answer({ unhandled: String(reason) }));
  // Where the disk's end is a limit of this process, it comes with a signal that real disks do not send.
  process.on('SIGXFSZ', () => {});
  process.on('message', ({ keys, bytes }: Puts) => {
    const writes = keys.map((key) =>
      environment.write(() => void table.put(Buffer.from(key), Buffer.alloc(bytes, key.at(-1) as string))),
    );
    Promise.all(writes).then(
      () => answer({}),
      ({ kind, message }) => answer({ kind, message }),
    );
  });
  answer({});
}
