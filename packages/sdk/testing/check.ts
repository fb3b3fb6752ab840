import {
  type ConnectionRecord,
  type CopyRecord,
  type DeviceRecord,
  isEffective,
  type MessageRecord,
  type Records,
  type SendRecord,
} from './records.js';
import { type Counts, Faults, type Report } from './report.js';

/** Which devices to judge, and when. */
export interface CheckOptions {
  /** Device ids that must have got everything by now; all that were declared unless said. */
  devices?: Iterable<string>;
  /** The history's clock at the check: confirmations younger than a second need no receipt yet. */
  nowMs?: number;
}

/** Judges what was recorded, on top of the faults that showed while it was recorded. */
export class Check {
  readonly #faults: Faults;
  readonly #judged: Set<string> | undefined;
  readonly #nowMs: number;
  readonly #counts: Counts;

  constructor(
    private readonly records: Records,
    options: CheckOptions,
  ) {
    this.#faults = new Faults(records.faults);
    this.#judged = options.devices === undefined ? undefined : new Set(options.devices);
    this.#nowMs = options.nowMs ?? records.nowMs();
    this.#counts = {
      sends: 0,
      accepted: 0,
      refused: 0,
      unanswered: 0,
      delivered: 0,
      read: 0,
      failed: 0,
      copies: 0,
      redelivered: records.redelivered,
      receipts: 0,
      receiptsRedelivered: records.receiptsRedelivered,
    };
  }

  report(): Report {
    const unknown: MessageRecord[] = [];
    for (const send of this.records.sends()) {
      this.#counts.sends += 1;
      if (send.message !== undefined) this.#accepted(send, send.message);
      else if (send.refusedWith !== undefined) this.#counts.refused += 1;
      else this.#counts.unanswered += 1;
    }
    for (const message of this.records.messages.values()) {
      this.#counts.copies += message.copies.length;
      this.#counts.receipts += message.receipts.length;
      if (message.send === undefined && message.copies.length > 0) unknown.push(message);
    }
    if (unknown.length > 0) this.#unknown(unknown);
    for (const user of this.records.users.values()) for (const device of user.devices) this.#order(device);
    return this.#faults.report(this.#counts);
  }

  #accepted(send: SendRecord, message: MessageRecord): void {
    const failed = message.receipts.some(({ status }) => status === 'failed');
    const received = message.copies.filter(({ device }) => send.recipients.includes(device.user.userId));
    this.#counts.accepted += 1;
    if (failed) this.#counts.failed += 1;
    if (received.length > 0) this.#counts.delivered += 1;
    if (message.receipts.some(({ status }) => status === 'read')) this.#counts.read += 1;
    this.#copies(send, message, failed);
    if (!failed) this.#receiptsDue(send, message, received);
    this.#receiptsSeen(send, message, received);
  }

  #copies(send: SendRecord, message: MessageRecord, failed: boolean): void {
    const sender = send.device.user;
    const id = message.serverMessageId;
    const due = send.recipients.flatMap((userId) => this.#expected(userId, send));
    if (!send.recipients.includes(sender.userId)) {
      due.push(...this.#expected(sender.userId, send).filter((device) => device !== send.device));
    }
    for (const device of failed ? [] : due) {
      if (message.copies.some((copy) => copy.device === device)) continue;
      this.#faults.add(
        'lost',
        () => `${id} from ${sender.userId}, sent as ${send.clientMessageId}, to ${name(device)}`,
      );
    }
    for (const { device } of message.copies) {
      if (device.user === sender || send.recipients.includes(device.user.userId)) continue;
      this.#faults.add('misdelivered', () => `${id} for ${send.recipients.join()} to ${name(device)}`);
    }
  }

  /** A status is due when every recipient has it, at any one device. */
  #receiptsDue(send: SendRecord, message: MessageRecord, received: CopyRecord[]): void {
    const everyone = (has: (copy: CopyRecord) => boolean): boolean =>
      send.recipients.every((userId) => received.some((copy) => copy.device.user.userId === userId && has(copy)));
    const read = everyone((copy) => isEffective(copy.read, this.#nowMs));
    if (!read && !everyone((copy) => isEffective(copy.confirmation, this.#nowMs))) return;
    for (const device of this.#expected(send.device.user.userId, send)) {
      const told = message.receipts.some(
        (receipt) => receipt.device === device && (receipt.status === 'read' || !read),
      );
      if (told) continue;
      const due = read ? 'read' : 'delivered';
      this.#faults.add('receiptsMissing', () => `${due} of ${message.serverMessageId} to ${name(device)}`);
    }
  }

  #receiptsSeen(send: SendRecord, message: MessageRecord, received: CopyRecord[]): void {
    const id = message.serverMessageId;
    const visible = send.recipients.every((userId) => (this.records.users.get(userId)?.devices.length ?? 0) > 0);
    for (const { status, clientMessageId, firstTick, device } of message.receipts) {
      if (clientMessageId !== send.clientMessageId) {
        this.#faults.add('corrupted', () => `a receipt of ${id} names ${clientMessageId}, not ${send.clientMessageId}`);
      }
      if (device.user !== send.device.user) {
        this.#faults.add('misdelivered', () => `a receipt of ${id} to ${name(device)}, who did not send it`);
      }
      if (status === 'failed' || !visible) continue;
      const cause = status === 'read' ? 'readTick' : 'confirmedTick';
      if (received.some((copy) => copy[cause] < firstTick)) continue;
      this.#faults.add('wrongStatus', () => `${id} became ${status}, and no device of the recipient had said so`);
    }
  }

  /** Delivered, but no acceptance was seen: right for a send whose answer got lost, once. */
  #unknown(messages: MessageRecord[]): void {
    const key = (userId: string, content: string) => `${userId}/${content}`;
    const sends = new Map<string, { open: number; answered: SendRecord | undefined }>();
    for (const send of this.records.sends()) {
      const at = key(send.device.user.userId, send.content);
      const entry = sends.get(at) ?? { open: 0, answered: undefined };
      if (send.message !== undefined) entry.answered = send;
      else if (send.attempts.some(({ refused }) => !refused)) entry.open += 1;
      sends.set(at, entry);
    }
    for (const { serverMessageId: id, senderId = '', content = '' } of messages) {
      const entry = sends.get(key(senderId, content));
      if (entry !== undefined && entry.open > 0) entry.open -= 1;
      else if (entry?.answered !== undefined) {
        const { clientMessageId, message } = entry.answered;
        this.#faults.add('doubled', () => `${clientMessageId} became ${message?.serverMessageId}, and ${id} came too`);
      } else if (this.records.users.has(senderId)) this.#faults.add('invented', () => `${id} from ${senderId}`);
    }
  }

  /** First deliveries to one device, in the order in which they came. */
  #order(device: DeviceRecord): void {
    /** By conversation. */
    const latestOfLine = new Map<string, number>();
    const latestOfUser = new Map<string, MessageRecord>();
    const newestOn = new Map<ConnectionRecord, number>();
    const reordered = (what: () => string) => this.#faults.add('reordered', () => `${what()} at ${name(device)}`);

    for (const message of device.firsts) {
      const { send, serverMessageId: id } = message;
      const copy = message.copies.find((known) => known.device === device);
      if (copy === undefined || send === undefined) continue;

      if (device.user === send.device.user && this.#mayComeLate(send)) continue;
      const { order } = send;
      const { userId } = send.device.user;
      const conversation = [userId, ...send.recipients].join();
      if (order !== undefined) {
        const line = `${order.connection.number},${conversation}`;
        if (order.tick < (latestOfLine.get(line) ?? 0))
          reordered(() => `${id} came after something that its sender sent later`);
        else latestOfLine.set(line, order.tick);
      }

      // Sends over several connections have no order that their sender knows; the timestamps give one, but for what two devices
      // had in flight at the same time.
      const before = latestOfUser.get(conversation);
      const sameLine = order !== undefined && order.connection === before?.send?.order?.connection;
      const atOnce = before?.send !== undefined && before.send.device !== send.device && overlap(before.send, send);
      if (before === undefined || (message.timestamp ?? '') >= (before.timestamp ?? ''))
        latestOfUser.set(conversation, message);
      else if (!sameLine && !atOnce) {
        reordered(() => `${id} of ${message.timestamp} came after ${before.serverMessageId} of ${before.timestamp}`);
      }

      const { connection, firstTick } = copy;
      const newest = newestOn.get(connection) ?? 0;
      // What was sent before a device was registered is not due to it; it may come when a fault has it handled again.
      const due = device.sinceTick <= (send.attempts[0]?.tick ?? 0);
      if (due && send.acceptedTick < connection.connectingTick) {
        if (firstTick > (connection.caughtUpTick ?? firstTick)) reordered(() => `${id} came after caught_up`);
        if (send.acceptedTick < newest) reordered(() => `${id} waited, and came after something newer`);
      }
      newestOn.set(connection, Math.max(newest, send.attempts[0]?.tick ?? 0));
    }
  }

  /**
   * Whether the copies for the sender's own devices may come behind later ones: an attempt was refused and perhaps accepted all the
   * same, or faults lay between the send and its answer.
   */
  #mayComeLate({ attempts, acceptedAtMs }: SendRecord): boolean {
    const sentMs = attempts[0]?.atMs ?? 0;
    const faults = this.records.disturbances.some(({ fromMs, untilMs }) => fromMs <= acceptedAtMs && sentMs <= untilMs);
    return faults || attempts.some(({ uncertain }) => uncertain);
  }

  #expected(userId: string, send: SendRecord): DeviceRecord[] {
    const sentTick = send.attempts[0]?.tick ?? 0;
    const devices = this.records.users.get(userId)?.devices ?? [];
    return devices.filter(
      ({ sinceTick, deviceId }) => sinceTick <= sentTick && (this.#judged === undefined || this.#judged.has(deviceId)),
    );
  }
}

/** Whether each was sent before the other was answered. */
function overlap(a: SendRecord, b: SendRecord): boolean {
  return (a.attempts[0]?.tick ?? 0) < b.acceptedTick && (b.attempts[0]?.tick ?? 0) < a.acceptedTick;
}

function name(device: DeviceRecord): string {
  return `device ${device.deviceId} of ${device.user.userId}`;
}
