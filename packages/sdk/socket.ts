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
  /**
   * The code that the server's refusal of the upgrade named, where the platform shows it (browsers do not). Without one, an
   * answer came from something in between, whatever its status.
   */
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

/** How long a server may take; for tests. */
export interface SocketLimits {
  /** For the answer to the upgrade. */
  readonly handshakeTimeoutMs?: number;
  /** Between two signs of life. */
  readonly silenceLimitMs?: number;
}

/** Opens a WebSocket: url, subprotocols, events. */
export type OpenSocket = (url: string, protocols: string[], events: SocketEvents, limits?: SocketLimits) => Socket;
