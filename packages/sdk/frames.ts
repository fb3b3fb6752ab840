/** The JSON frames of the WebSocket, as they are on the wire. Ids are UUIDs, timestamps RFC 3339 in UTC. */

/** A message to send; `content` is 1 to 1,000 code points. */
export interface SendFrame {
  sender_id: string;
  receiver_id: string;
  content: string;
  timestamp: string;
  client_message_id: string;
}

/** Confirms up to 256 messages. */
export interface ConfirmFrame {
  status: 'delivered' | 'read';
  server_message_ids: string[];
}

/** Confirms up to 256 receipts and events. */
export interface AckFrame {
  ack: string[];
}

/** A fresh token for this connection. */
export interface AuthFrame {
  auth: { token: string };
}

export type ClientFrame = SendFrame | ConfirmFrame | AckFrame | AuthFrame;

/** The server has the message, durably. */
export interface AcceptedFrame {
  status: 'sent';
  timestamp: string;
  client_message_id: string;
  server_message_id: string;
  deduplicated?: boolean;
}

/** A message for this device; `receiver_id` is set on the copy of one that the user sent from another device. */
export interface MessageFrame {
  sender_id: string;
  receiver_id?: string;
  group_id?: string;
  content?: string;
  sealed?: { body: string; key_id: string; data: string };
  timestamp: string;
  server_message_id: string;
}

/** What became of a message that the user sent. */
export interface ReceiptFrame {
  status: 'delivered' | 'read' | 'failed';
  timestamp: string;
  server_message_id: string;
  client_message_id: string;
  event_id: string;
  code?: string;
}

/** Something else that the device must know. */
export interface EventFrame {
  event: { event_id: string; kind: string; user_id?: string; device_id?: string; group_id?: string };
}

/** A refusal; it answers a send when it carries that send's `client_message_id`. */
export interface ErrorFrame {
  error: { code: string; message: string; retry_after_ms?: number };
  client_message_id?: string;
}

/** The server will close this connection. */
export interface GoingAwayFrame {
  going_away: { reconnect_after_ms: number };
}

/** The backlog has been transmitted. */
export interface CaughtUpFrame {
  caught_up: true;
}

/** A sign of life, for clients that cannot see pings. */
export interface HeartbeatFrame {
  heartbeat: true;
}

export type ServerFrame =
  | AcceptedFrame
  | MessageFrame
  | ReceiptFrame
  | EventFrame
  | ErrorFrame
  | GoingAwayFrame
  | CaughtUpFrame
  | HeartbeatFrame;
