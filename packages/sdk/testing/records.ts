import { Faults } from './report.js';

/** What a history remembers. A tick is the position of an event in the whole history, from 1. */

/** One user and the devices that are expected to get everything. */
export interface UserRecord {
  readonly userId: string;
  readonly devices: DeviceRecord[];
  /** By client_message_id. */
  readonly sends: Map<string, SendRecord>;
  /** The highest timestamp that was seen accepted. */
  latest: string;
}

export interface DeviceRecord {
  readonly user: UserRecord;
  readonly deviceId: string;
  /** It is expected to get what is sent from here on; 0 for a user's first device, which gets what waited, too. */
  readonly sinceTick: number;
  /** In the order of their first delivery. */
  readonly firsts: MessageRecord[];
  readonly unacked: Map<string, ReceiptRecord>;
}

export interface ConnectionRecord {
  readonly device: DeviceRecord;
  /** From 1, over all devices. */
  readonly number: number;
  /** When it began to connect: what was accepted before this is backlog. */
  readonly connectingTick: number;
  caughtUpTick: number | undefined;
  /** When it ended without a closing handshake, or its server was killed: what it sent shortly before may not have arrived. */
  lostAtMs: number | undefined;
  /** The last acceptance that is known to belong to a transmission on this connection. */
  lastTick: number;
  lastTimestamp: string;
}

/** One transmission of a send. */
export interface Attempt {
  readonly connection: ConnectionRecord;
  readonly tick: number;
  readonly atMs: number;
  refused: boolean;
  /** Refused as `unavailable`: it may have been accepted all the same. */
  uncertain: boolean;
}

/** A send as its sender sees it, over all its attempts. */
export interface SendRecord {
  readonly device: DeviceRecord;
  readonly clientMessageId: string;
  /** user_ids. */
  readonly recipients: readonly string[];
  readonly content: string;
  /** Replaced, never pushed to: an array that grows reserves 17 places, and there are millions. */
  attempts: readonly Attempt[];
  /** The sender's latest timestamp when it was first sent: its own must not be lower. */
  readonly floor: string;
  /** Set by the first acceptance. */
  message: MessageRecord | undefined;
  acceptedTick: number;
  acceptedAtMs: number;
  /** The attempt that was accepted, where that is certain: its place is its place in the order of acceptance. */
  order: Attempt | undefined;
  acceptedAsNew: boolean;
  refusedWith: string | undefined;
}

/** A message as the server knows it. */
export interface MessageRecord {
  readonly serverMessageId: string;
  /** Undefined until its acceptance was seen; a delivery may be seen earlier. */
  send: SendRecord | undefined;
  senderId: string | undefined;
  /** What was delivered, kept until there is a send to compare it with. */
  content: string | undefined;
  timestamp: string | undefined;
  copies: readonly CopyRecord[];
  receipts: readonly ReceiptRecord[];
  /** The last time its acceptance was repeated: its receipt may then come again. */
  deduplicatedTick: number;
}

/** A confirmation on its way to the server. */
export interface Confirmation {
  /** All of the history so far, in the order in which they began. */
  readonly disturbances: readonly Disturbance[];
  readonly connection: ConnectionRecord;
  readonly atMs: number;
  readonly tick: number;
}

/** A message at one device. */
export interface CopyRecord {
  readonly device: DeviceRecord;
  readonly connection: ConnectionRecord;
  readonly firstTick: number;
  /** The first confirmation that is not known to be lost. */
  confirmation: Confirmation | undefined;
  read: Confirmation | undefined;
  /** When it was first confirmed and first read, lost or not; what these cause is later. */
  confirmedTick: number;
  readTick: number;
}

/** A receipt at one device of the sender. */
export interface ReceiptRecord {
  readonly device: DeviceRecord;
  readonly message: MessageRecord;
  readonly status: 'delivered' | 'read' | 'failed';
  readonly eventId: string;
  readonly clientMessageId: string;
  readonly firstTick: number;
  ack: Confirmation | undefined;
}

/** A confirmation takes effect within this time. */
export const effectMs = 1000;

/** Faults between two moments. */
export interface Disturbance {
  readonly fromMs: number;
  readonly untilMs: number;
}

/** When a confirmation must have taken effect: that takes a second, and faults on its way hold it up. */
function dueAtMs({ atMs, disturbances }: Confirmation): number {
  let dueMs = atMs + effectMs;
  for (const { fromMs, untilMs } of disturbances) if (fromMs < dueMs) dueMs = Math.max(dueMs, untilMs + effectMs);
  return dueMs;
}

/** True when the confirmation may have been lost with its connection. */
export function mayBeLost(confirmation: Confirmation): boolean {
  const { lostAtMs } = confirmation.connection;
  return lostAtMs !== undefined && lostAtMs <= dueAtMs(confirmation);
}

/** True when the server must have acted on the confirmation. */
export function isEffective(confirmation: Confirmation | undefined, nowMs: number): boolean {
  return confirmation !== undefined && !mayBeLost(confirmation) && nowMs > dueAtMs(confirmation);
}

const none: readonly never[] = [];

/** Everything that was seen; shared by the recorders and the check. */
export class Records {
  readonly users = new Map<string, UserRecord>();
  /** By server_message_id. */
  readonly messages = new Map<string, MessageRecord>();
  readonly faults = new Faults();
  readonly disturbances: Disturbance[] = [];
  redelivered = 0;
  receiptsRedelivered = 0;
  connections = 0;
  /** The last time that every server was killed, and how many connections there had been by then. */
  killed: { readonly atMs: number; readonly connections: number } | undefined;
  #tick = 0;

  constructor(readonly nowMs: () => number) {}

  /** The next position in the history. */
  tick(): number {
    this.#tick += 1;
    return this.#tick;
  }

  *sends(): Generator<SendRecord> {
    for (const user of this.users.values()) yield* user.sends.values();
  }

  user(userId: string): UserRecord {
    let user = this.users.get(userId);
    if (user === undefined) {
      user = { userId, devices: [], sends: new Map(), latest: '' };
      this.users.set(userId, user);
    }
    return user;
  }

  message(serverMessageId: string): MessageRecord {
    let message = this.messages.get(serverMessageId);
    if (message === undefined) {
      message = {
        serverMessageId,
        send: undefined,
        senderId: undefined,
        content: undefined,
        timestamp: undefined,
        copies: none,
        receipts: none,
        deduplicatedTick: 0,
      };
      this.messages.set(serverMessageId, message);
    }
    return message;
  }
}
