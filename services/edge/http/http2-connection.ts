import { constants, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2';
import type { Patience } from './patience.js';

/**
 * Ends an HTTP/2 connection whose client never begins, has nothing to ask for a long time, or has gone without a word, and streams whose
 * answer is complete and not taken for as long. Any byte is a
 * sign of life, and nobody is judged before what waits in the socket has been read: a process that was stopped finds its timers due and
 * its clients' answers unread.
 */
export function watchConnection(session: ServerHttp2Session, patience: Patience): void {
  const { headersMs, pingEveryMs, idleHttp2Ms } = patience;
  const streams = new Set<ServerHttp2Stream>();
  /** When a stream was first seen with an answer that is complete. */
  const answeredAtMs = new WeakMap<ServerHttp2Stream, number>();
  let idleSinceMs = performance.now();
  /** What had come when the last ping went out; undefined while none has. */
  let bytesAtPing: number | undefined;
  const bytesRead = () => session.socket.bytesRead ?? 0;

  const beginning = setTimeout(() => session.destroy(), headersMs).unref();
  session.once('remoteSettings', () => clearTimeout(beginning));

  const endStalled = (stream: ServerHttp2Stream) => {
    const sinceMs = answeredAtMs.get(stream);
    if (sinceMs === undefined) answeredAtMs.set(stream, performance.now());
    else if (performance.now() - sinceMs >= idleHttp2Ms) stream.close(constants.NGHTTP2_CANCEL);
  };
  const judge = () => {
    if (session.destroyed) return;
    if (bytesAtPing === bytesRead()) {
      session.destroy();
      return;
    }
    if (streams.size === 0 && performance.now() - idleSinceMs >= idleHttp2Ms) {
      session.close();
      return;
    }
    for (const stream of streams) if (stream.writableEnded) endStalled(stream);
    bytesAtPing = bytesRead();
    session.ping(ignore);
  };
  const pinging = setInterval(() => setImmediate(judge), pingEveryMs).unref();

  session.on('stream', (stream) => {
    streams.add(stream);
    stream.once('close', () => {
      streams.delete(stream);
      idleSinceMs = performance.now();
    });
  });
  session.once('close', () => {
    clearTimeout(beginning);
    clearInterval(pinging);
  });
}

/** Ends streams whose answer is complete though their client goes on asking. RFC 9113, section 8.1 has the code for it. */
export function endAnswered(session: ServerHttp2Session, graceMs: number): void {
  session.on('stream', (stream) => {
    stream.once('finish', () => {
      if (stream.readableEnded || stream.closed) return;
      // The trailers are still to be sent.
      const timer = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), graceMs).unref();
      stream.once('close', () => clearTimeout(timer));
    });
  });
}

function ignore(): void {}
