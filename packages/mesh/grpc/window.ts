import {
  constants,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Server } from '@grpc/grpc-js';
import { FLOW_CONTROL_WINDOW_BYTES } from './wire.js';

/** What grpc-js 1.14 keeps inside its server, as far as it is needed here. */
interface ServerInside {
  readonly commonServerOptions: { settings?: { initialWindowSize?: number }; handshakeTimeout?: number };
  readonly http2Servers: ReadonlyMap<Http2Server, unknown>;
}

/** A TLS handshake that takes longer is nobody's who wants to call, milliseconds; Node would wait for two minutes. */
const HANDSHAKE_MS = 10_000;

/**
 * Widens the windows in which clients send to a server. grpc-js has the option `grpc-node.flow_control_window` and reads
 * it at clients only, so this reaches inside; a test watches the windows from outside. To be called before a port is
 * bound; the function returned, after. For the same want of options it bounds the time that a client may take: for a handshake, and for a request that
 * is no stream.
 *
 * @param isStream whether a path is that of a method that takes a stream of requests.
 * @param requestMs for any other request to be whole, milliseconds.
 */
export function widenWindows(
  server: Server,
  { isStream, requestMs }: { isStream: (path: string) => boolean; requestMs: number },
): () => void {
  const { commonServerOptions, http2Servers } = server as unknown as ServerInside;
  commonServerOptions.settings = { ...commonServerOptions.settings, initialWindowSize: FLOW_CONTROL_WINDOW_BYTES };
  commonServerOptions.handshakeTimeout = HANDSHAKE_MS;
  return () => {
    for (const http2Server of http2Servers.keys()) {
      // The setting is for streams; the connection has a window of its own.
      http2Server.on('session', (session: ServerHttp2Session) => session.setLocalWindowSize(FLOW_CONTROL_WINDOW_BYTES));
      http2Server.on('stream', (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => {
        if (isStream(headers[':path'] ?? '')) return;
        const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), requestMs).unref();
        const done = () => clearTimeout(timer);
        stream.once('end', done).once('close', done);
      });
    }
  };
}
