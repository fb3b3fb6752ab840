import {
  type Attempt,
  type Confirmation,
  type ConnectionRecord,
  type CopyRecord,
  isEffective,
  type MessageRecord,
  mayBeLost,
  type ReceiptRecord,
  type Records,
  type SendRecord,
} from './records.js';

/** A tick after all others; small enough to be stored without a box. */
const never = 2 ** 30;
const worthARetry = new Set(['unavailable', 'resource_exhausted']);

/**
 * Records one connection of one device. What a client does is recorded before it is done (`sending`, `confirming`,
 * `acking`), what it sees when it sees it; so what is recorded earlier cannot be caused by what is recorded later.
 */
export class Line {
  constructor(
    private readonly records: Records,
    private readonly connection: ConnectionRecord,
  ) {}

  /** A send, or a repeat of one under the same client_message_id. @param recipients user_ids */
  sending(clientMessageId: string, recipients: readonly string[], content: string): void {
    const attempt: Attempt = {
      connection: this.connection,
      tick: this.records.tick(),
      atMs: this.records.nowMs(),
      refused: false,
      uncertain: false,
    };
    const { device } = this.connection;
    const send = device.user.sends.get(clientMessageId);
    if (send !== undefined) {
      // Another content or recipient under a used id is a send that must be refused: it is not this one.
      if (sameSend(send, recipients, content)) send.attempts = [...send.attempts, attempt];
      return;
    }
    device.user.sends.set(clientMessageId, {
      device,
      clientMessageId,
      recipients,
      content,
      attempts: [attempt],
      floor: device.user.latest,
      message: undefined,
      acceptedTick: 0,
      acceptedAtMs: 0,
      order: undefined,
      acceptedAsNew: false,
      refusedWith: undefined,
    });
  }

  accepted(clientMessageId: string, serverMessageId: string, timestamp: string, deduplicated: boolean): void {
    const { faults } = this.records;
    const tick = this.records.tick();
    const send = this.connection.device.user.sends.get(clientMessageId);
    if (send === undefined) {
      faults.add('invented', () => `${clientMessageId} was accepted, but not sent from here`);
      return;
    }
    if (send.message !== undefined) this.#acceptedAgain(send, serverMessageId, timestamp, deduplicated, tick);
    else this.#acceptedFirst(send, serverMessageId, timestamp, deduplicated, tick);
    if (!deduplicated) send.acceptedAsNew = true;
  }

  refused(clientMessageId: string, code: string): void {
    const send = this.connection.device.user.sends.get(clientMessageId);
    const attempt = send?.attempts.find((open) => open.connection === this.connection && !open.refused);
    if (send === undefined || attempt === undefined || send.message !== undefined) return;
    attempt.refused = true;
    attempt.uncertain = code === 'unavailable';
    if (!worthARetry.has(code)) send.refusedWith = code;
  }

  delivered(serverMessageId: string, senderId: string, content: string, timestamp: string): void {
    const { connection, records } = this;
    const tick = records.tick();
    const message = records.message(serverMessageId);
    this.#compare(message, senderId, content, timestamp);
    const copy = message.copies.find(({ device }) => device === connection.device);
    if (copy === undefined) {
      const first: CopyRecord = {
        device: connection.device,
        connection,
        firstTick: tick,
        confirmation: undefined,
        read: undefined,
        confirmedTick: never,
        readTick: never,
      };
      message.copies = [...message.copies, first];
      connection.device.firsts.push(message);
    } else if (isEffective(copy.confirmation, records.nowMs())) {
      records.faults.add('repeated', () => {
        const afterMs = Math.round(records.nowMs() - (copy.confirmation?.atMs ?? 0));
        return `${serverMessageId} to device ${copy.device.deviceId}, ${afterMs} ms after it was confirmed`;
      });
    } else records.redelivered += 1;
  }

  confirming(status: 'delivered' | 'read', serverMessageIds: readonly string[]): void {
    const confirmation = this.#confirmation();
    for (const id of serverMessageIds) {
      const copy = this.records.messages.get(id)?.copies.find(({ device }) => device === this.connection.device);
      if (copy === undefined) continue;
      copy.confirmation = earliest(copy.confirmation, confirmation);
      copy.confirmedTick = Math.min(copy.confirmedTick, confirmation.tick);
      if (status !== 'read') continue;
      copy.read = earliest(copy.read, confirmation);
      copy.readTick = Math.min(copy.readTick, confirmation.tick);
    }
  }

  receipt(
    status: 'delivered' | 'read' | 'failed',
    eventId: string,
    serverMessageId: string,
    clientMessageId: string,
  ): void {
    const { records } = this;
    const { device } = this.connection;
    const tick = records.tick();
    const message = records.message(serverMessageId);
    const earlier = message.receipts.filter((receipt) => receipt.device === device);
    const same = earlier.find((receipt) => receipt.eventId === eventId);
    if (same !== undefined) {
      if (same.status !== status) {
        records.faults.add('wrongStatus', () => `event ${eventId} was ${same.status}, then ${status}`);
      }
      const askedAgain = message.deduplicatedTick > (same.ack?.tick ?? 0);
      if (isEffective(same.ack, records.nowMs()) && !askedAgain) {
        records.faults.add('receiptsRepeated', () => {
          const { connection: acked, atMs } = same.ack as Confirmation;
          const afterMs = Math.round(records.nowMs() - atMs);
          const lost = acked.lostAtMs === undefined ? 'not lost' : `lost ${Math.round(acked.lostAtMs - atMs)} ms later`;
          const where = `connection ${acked.number}, ${lost}; again on ${this.connection.number}`;
          return `${status} of ${serverMessageId}, event ${eventId}, ${afterMs} ms after it was acknowledged on ${where}`;
        });
      } else records.receiptsRedelivered += 1;
      if (same.ack !== undefined) device.unacked.set(eventId, same);
      return;
    }
    const wrong = earlier.find((receipt) => !mayFollow(receipt.status, status));
    if (wrong !== undefined) {
      records.faults.add('wrongStatus', () => `${serverMessageId} was ${wrong.status}, then ${status}`);
    }
    const receipt: ReceiptRecord = {
      device,
      message,
      status,
      eventId,
      clientMessageId,
      firstTick: tick,
      ack: undefined,
    };
    message.receipts = [...message.receipts, receipt];
    device.unacked.set(eventId, receipt);
  }

  acking(eventIds: readonly string[]): void {
    const confirmation = this.#confirmation();
    const { unacked } = this.connection.device;
    for (const id of eventIds) {
      const receipt = unacked.get(id);
      if (receipt === undefined) continue;
      receipt.ack = earliest(receipt.ack, confirmation);
      unacked.delete(id);
    }
  }

  caughtUp(): void {
    if (this.connection.caughtUpTick !== undefined) {
      this.records.faults.add('wrongStatus', () => `connection ${this.connection.number} was caught up twice`);
    }
    this.connection.caughtUpTick = this.records.tick();
  }

  /** @param clean true when this side closed it and the other answered: then all that was sent has been read */
  closed(clean: boolean): void {
    if (clean) return;
    const { killed } = this.records;
    const dead = killed && this.connection.number <= killed.connections;
    this.connection.lostAtMs = dead ? killed.atMs : this.records.nowMs();
  }

  #acceptedFirst(send: SendRecord, id: string, timestamp: string, deduplicated: boolean, tick: number): void {
    const { connection, records } = this;
    const message = records.message(id);
    if (message.send !== undefined) {
      const other = message.send.clientMessageId;
      records.faults.add('corrupted', () => `${id} stands for two sends, ${other} and ${send.clientMessageId}`);
      return;
    }
    const { senderId, content, timestamp: seen } = message;
    // The first answer was lost: to this one belongs the status that stands, too.
    if (deduplicated) message.deduplicatedTick = tick;
    message.send = send;
    message.timestamp = timestamp;
    if (senderId !== undefined) this.#compare(message, senderId, content ?? '', seen ?? '');
    message.content = undefined;
    send.message = message;
    send.acceptedTick = tick;
    send.acceptedAtMs = this.records.nowMs();
    send.refusedWith = undefined;

    const here = send.attempts.find((attempt) => attempt.connection === connection && !attempt.refused);
    const earlier = send.attempts.filter((attempt) => attempt !== here && !attempt.refused);
    const certain = !send.attempts.some(({ uncertain }) => uncertain);
    if (deduplicated) send.order = certain && earlier.length === 1 ? earlier[0] : undefined;
    else send.order = certain ? here : undefined;

    if (timestamp < send.floor) this.#wentBack(send, timestamp, send.floor);
    const { user } = send.device;
    if (timestamp > user.latest) user.latest = timestamp;
    if (send.order === undefined) return;
    const { connection: line, tick: place } = send.order;
    if (place > line.lastTick) {
      if (timestamp < line.lastTimestamp) this.#wentBack(send, timestamp, line.lastTimestamp);
      line.lastTick = place;
      line.lastTimestamp = timestamp;
    } else if (timestamp > line.lastTimestamp) this.#wentBack(send, line.lastTimestamp, timestamp);
  }

  #acceptedAgain(send: SendRecord, id: string, timestamp: string, deduplicated: boolean, tick: number): void {
    const { faults } = this.records;
    const message = send.message as MessageRecord;
    message.deduplicatedTick = tick;
    if (message.serverMessageId !== id) {
      faults.add('doubled', () => `${send.clientMessageId} became ${message.serverMessageId} and ${id}`);
    } else if (message.timestamp !== timestamp) {
      faults.add('corrupted', () => `${id} was accepted at ${message.timestamp}, and again at ${timestamp}`);
    }
    if (!deduplicated && send.acceptedAsNew) {
      faults.add('doubled', () => `${send.clientMessageId} was accepted twice as new`);
    }
  }

  #wentBack(send: SendRecord, timestamp: string, earlier: string): void {
    this.records.faults.add('timestampsDecreasing', () => {
      return `${send.clientMessageId} of ${send.device.user.userId} has ${timestamp}, an earlier send ${earlier}`;
    });
  }

  #compare(message: MessageRecord, senderId: string, content: string, timestamp: string): void {
    const { faults } = this.records;
    const { send } = message;
    if (send === undefined && message.senderId === undefined) {
      message.senderId = senderId;
      message.content = content;
      message.timestamp = timestamp;
      return;
    }
    const expected = send === undefined ? message.content : send.content;
    const expectedSender = send === undefined ? message.senderId : send.device.user.userId;
    if (content !== expected || senderId !== expectedSender || timestamp !== message.timestamp) {
      faults.add('corrupted', () => {
        const differs = [
          ...(content === expected ? [] : ['content']),
          ...(senderId === expectedSender ? [] : ['sender']),
          ...(timestamp === message.timestamp ? [] : ['timestamp']),
        ];
        return `${message.serverMessageId} was delivered with another ${differs.join(' and ')}`;
      });
    }
  }

  #confirmation(): Confirmation {
    const { disturbances } = this.records;
    return { disturbances, connection: this.connection, atMs: this.records.nowMs(), tick: this.records.tick() };
  }
}

function earliest(known: CopyRecord['confirmation'], next: Confirmation): Confirmation {
  return known === undefined || mayBeLost(known) ? next : known;
}

function mayFollow(earlier: string, later: string): boolean {
  return earlier === 'delivered' && later === 'read';
}

function sameSend(send: SendRecord, recipients: readonly string[], content: string): boolean {
  return send.content === content && send.recipients.join() === recipients.join();
}
