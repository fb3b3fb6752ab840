import { open } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Logger } from '@chatmesh/mesh';
import { connectionKey, unansweredKey } from '../domain/tcp-table.js';
import type { Patience } from './patience.js';

const TABLES = ['/proc/net/tcp', '/proc/net/tcp6'];
const CHUNK_BYTES = 64 * 1024;

interface Stream {
  readonly socket: Socket;
  /** When a look first found something unacknowledged that is so since; undefined while all is well. */
  waitsSinceMs: number | undefined;
}

/**
 * Ends streams over HTTP/1.1 whose client has gone without a word. Nothing comes back on such a stream, a heartbeat that is handed to
 * the kernel is no sign of life, and the kernel itself repeats for a quarter of an hour. It knows what has not been acknowledged,
 * though, and is asked while there are such streams. Elsewhere than on Linux the kernel's own patience has to do.
 */
export class HalfOpenStreams {
  readonly #patience: Patience;
  readonly #logger: Logger;
  readonly #streams = new Map<string, Stream>();
  #timer: NodeJS.Timeout | undefined;
  #looking = false;

  constructor(options: { patience: Patience; logger: Logger }) {
    this.#patience = options.patience;
    this.#logger = options.logger;
  }

  /** Looks after a connection until its answer ends. */
  watch(response: ServerResponse): void {
    const { socket } = response;
    if (!socket || socket.remoteAddress === undefined) return;
    const key = connectionKey(socket.localPort ?? 0, socket.remoteAddress, socket.remotePort ?? 0);
    this.#streams.set(key, { socket, waitsSinceMs: undefined });
    response.once('close', () => this.#forget(key, socket));
    this.#timer ??= setInterval(() => void this.#look(), this.#patience.lookEveryMs).unref();
  }

  close(): void {
    clearInterval(this.#timer);
    this.#streams.clear();
  }

  #forget(key: string, socket: Socket): void {
    if (this.#streams.get(key)?.socket === socket) this.#streams.delete(key);
    if (this.#streams.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  async #look(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    const waiting = new Set<string>();
    try {
      for (const table of TABLES)
        for await (const key of unanswered(table)) if (this.#streams.has(key)) waiting.add(key);
    } catch (error) {
      // Without IPv6 the second table is missing; elsewhere than on Linux both are.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
        this.#logger.warn({ err: error }, 'it cannot be seen what clients acknowledge');
    }
    this.#looking = false;
    this.#judge(waiting);
  }

  #judge(waiting: ReadonlySet<string>): void {
    const nowMs = performance.now();
    for (const [key, stream] of this.#streams) {
      if (!waiting.has(key)) stream.waitsSinceMs = undefined;
      else if (stream.waitsSinceMs === undefined) stream.waitsSinceMs = nowMs;
      else if (nowMs - stream.waitsSinceMs >= this.#patience.unacknowledgedMs) stream.socket.destroy();
    }
  }
}

/**
 * Connections to whose peers the kernel has sent something more than once without an answer, as {@link connectionKey}s. Linux alone tells.
 *
 * @param path `/proc/net/tcp` or `/proc/net/tcp6`
 * @throws NodeJS.ErrnoException `ENOENT` where it is not there.
 */
async function* unanswered(path: string): AsyncGenerator<string> {
  const file = await open(path);
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    let rest = '';
    for (;;) {
      const { bytesRead } = await file.read(chunk, 0, CHUNK_BYTES);
      if (bytesRead === 0) return;
      const lines = (rest + chunk.toString('latin1', 0, bytesRead)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const key = unansweredKey(line);
        if (key !== undefined) yield key;
      }
    }
  } finally {
    await file.close();
  }
}
