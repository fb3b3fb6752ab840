/** How long a client may take for what, milliseconds. */
export interface Patience {
  /** A TLS handshake, HTTP/2's preface, or the head of a request. */
  readonly headersMs: number;
  /** A whole request, from its head on; a stream of requests is whole when its caller is admitted. */
  readonly requestMs: number;
  /** An HTTP/1.1 connection without a request, or one on which nothing moves though an answer is due. */
  readonly idleMs: number;
  /** An HTTP/2 connection without a stream (gRPC clients keep theirs, and answer pings), or a whole answer that is not taken. */
  readonly idleHttp2Ms: number;
  /** Between two pings of an HTTP/2 connection; one that has not been answered by the next ends it. */
  readonly pingEveryMs: number;
  /** Between two looks at what streams over HTTP/1.1 were sent and have not acknowledged. */
  readonly lookEveryMs: number;
  /** For so long nothing is acknowledged by the client of such a stream, then it has gone. */
  readonly unacknowledgedMs: number;
}

/**
 * A request that is never finished ends within 30 s: what is judged by a timer here ends after 20 s, what Node judges after 25
 * at the latest. A client that has gone silently is gone here within 90 s: over HTTP/2 after two pings, over HTTP/1.1
 * after the heartbeat that it does not acknowledge any more (25 s), a look (10 s), the wait (40 s) and another look.
 */
export const PATIENCE: Patience = {
  headersMs: 10_000,
  requestMs: 20_000,
  idleMs: 60_000,
  idleHttp2Ms: 300_000,
  pingEveryMs: 25_000,
  lookEveryMs: 10_000,
  unacknowledgedMs: 40_000,
};
