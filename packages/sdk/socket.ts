/** What one WebSocket tells its owner. `closed` comes exactly once and is the last. */
export interface SocketEvents {
  opened(): void;
  received(text: string): void;
  closed(end: SocketEnd): void;
}

/** How a WebSocket ended. */
export interface SocketEnd {
  /** The WebSocket close code; 1006 when there was no closing handshake. */
  code: number;
  reason: string;
  /** The HTTP status, when the server refused the upgrade and the platform shows it (browsers do not). */
  httpStatus?: number;
  /** The code that the refusal's body named. */
  errorCode?: string;
}

/** One WebSocket. */
export interface Socket {
  /** False as soon as either side has begun to close: what is sent then is silently dropped. */
  readonly open: boolean;
  send(text: string): void;
  /** Starts the closing handshake; a peer that does not answer within a few seconds is cut off. */
  close(): void;
}

/** Opens a WebSocket: url, subprotocols, events. */
export type OpenSocket = (url: string, protocols: string[], events: SocketEvents) => Socket;
