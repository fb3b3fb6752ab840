import type { Http2Server, ServerHttp2Session } from 'node:http2';
import type { Server } from '@grpc/grpc-js';
import { FLOW_CONTROL_WINDOW_BYTES } from './wire.js';

/** What grpc-js 1.14 keeps inside its server, as far as it is needed here. */
interface ServerInside {
  readonly commonServerOptions: { settings?: { initialWindowSize?: number } };
  readonly http2Servers: ReadonlyMap<Http2Server, unknown>;
}

/**
 * Widens the windows in which clients send to a server. grpc-js has the option `grpc-node.flow_control_window` and reads
 * it at clients only, so this reaches inside; a test watches the windows from outside. To be called before a port is
 * bound; the function returned, after.
 */
export function widenWindows(server: Server): () => void {
  const { commonServerOptions, http2Servers } = server as unknown as ServerInside;
  commonServerOptions.settings = { ...commonServerOptions.settings, initialWindowSize: FLOW_CONTROL_WINDOW_BYTES };
  return () => {
    for (const http2Server of http2Servers.keys()) {
      // The setting is for streams; the connection has a window of its own.
      http2Server.on('session', (session: ServerHttp2Session) => session.setLocalWindowSize(FLOW_CONTROL_WINDOW_BYTES));
    }
  };
}
