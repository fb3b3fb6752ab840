import { PassThrough } from 'node:stream';
import type { InboxRow, InboxStore } from '@chatmesh/chat';
import { run, type Terminal } from '@chatmesh/cli';
import { MeshError } from '@chatmesh/mesh';
import type { LocalMesh } from './local-mesh.js';

/** `npx chatmesh admin ...` against a mesh; lines of JSON come parsed. */
export function admin(mesh: LocalMesh, ...args: string[]) {
  return operator({ CHAT_ADDRESSES: mesh.chatAddress, USER_ADDRESS: mesh.userAddress }, 'admin', ...args);
}

/** `npx chatmesh ...` with these variables; lines of JSON come parsed. */
export async function operator(env: Record<string, string>, ...args: string[]) {
  const out: string[] = [];
  const err: string[] = [];
  const terminal: Terminal = {
    env,
    stdin: new PassThrough() as unknown as Terminal['stdin'],
    stdout: process.stdout,
    interactive: false,
    columns: 100,
    out: (line) => out.push(line),
    err: (line) => err.push(line),
    progress: () => undefined,
    signal: new AbortController().signal,
  };
  const exitCode = await run(args, terminal);
  return { exitCode, out, err: err.join('\n'), json: args.includes('--json') ? out.map((l) => JSON.parse(l)) : [] };
}

/** An inbox store that refuses rows of some users, for good. */
export function brokenFor(users: ReadonlySet<string>, inner: InboxStore): InboxStore {
  return {
    append: async (rows: readonly InboxRow[], nowMs) => {
      if (rows.some(({ userId }) => users.has(userId))) throw new MeshError('internal', 'a broken row');
      await inner.append(rows, nowMs);
    },
    page: (...args) => inner.page(...args),
    remove: (...args) => inner.remove(...args),
    clear: (...args) => inner.clear(...args),
    aged: (...args) => inner.aged(...args),
    forgetWeeks: (...args) => inner.forgetWeeks(...args),
    [Symbol.asyncDispose]: () => inner[Symbol.asyncDispose](),
  };
}
