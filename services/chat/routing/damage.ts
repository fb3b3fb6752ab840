import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { isUuid, UNCLAIMED_DEVICE } from '../domain/ids.js';
import type { InboxRow, InboxStore } from '../stores/inbox-store.js';
import type { DamagedEvent, MessageLog, Position } from '../stores/message-log.js';
import { DAMAGED, type StatusRecord, type StatusStore } from '../stores/status-store.js';
import { before, type DeadLetters } from './dead-letters.js';
import type { CachedDirectory } from './directory.js';

export interface DamageDeps {
  readonly log: MessageLog;
  readonly inbox: InboxStore;
  readonly directory: CachedDirectory;
  readonly statuses: StatusStore;
  readonly deadLetters: DeadLetters;
  readonly whileUnavailable: <T>(attempt: () => Promise<T>) => Promise<T>;
  /** Tells the sender of a message that it is given up. */
  readonly tellSender: (record: StatusRecord) => Promise<void>;
}

/**
 * What becomes of events whose stored form is damaged: nothing of it reaches a device. An operator finds a dead letter, and the
 * sender of a message is told `failed` where its status record proves which one it was and no device has it or will get it.
 */
export class Damage {
  readonly #deps: DamageDeps;

  constructor(deps: DamageDeps) {
    this.#deps = deps;
  }

  /** An event on the log, for whomever it was. Resolves when the log may forget it. */
  async onLog({ position, bytes }: DamagedEvent): Promise<void> {
    const record = await this.#recordOf(position, bytes);
    await this.#giveUp(record?.recipientId, position, record, 'an event on the log');
  }

  /** A row of an inbox. Resolves when it may be removed. */
  async inInbox({ userId, deviceId, position, payload }: InboxRow): Promise<void> {
    // What a crash has left in both is put into the inbox again.
    if (this.#deps.log.holds(position)) return;
    const found = await this.#recordOf(position, payload);
    const record = found?.recipientId === userId ? found : undefined;
    await this.#giveUp(userId, position, record, `a row in the inbox of device ${deviceId}`);
  }

  async #giveUp(
    userId: string | undefined,
    position: Position,
    record: StatusRecord | undefined,
    what: string,
  ): Promise<void> {
    const { deadLetters, whileUnavailable, tellSender } = this.#deps;
    const which = record ? `message ${record.serverMessageId}` : 'of which nothing is certain';
    await deadLetters.lose(userId, position, `internal: ${what}, ${which}, is damaged`);
    if (!record || record.deliveredAtMs + record.readAtMs + record.failedAtMs > 0) return;
    if (!(await whileUnavailable(() => this.#waits(record)))) await tellSender(record);
  }

  /** Whether the message waits for some device, sound. */
  async #waits({ recipientId, position }: StatusRecord): Promise<boolean> {
    const { directory, inbox } = this.#deps;
    const user = await directory.find(recipientId);
    for (const deviceId of [...(user?.deviceIds ?? []), UNCLAIMED_DEVICE]) {
      const [row] = await inbox.page(recipientId, deviceId, before(position), 1);
      if (row?.position === position) return true;
    }
    return false;
  }

  /** The record of the message that damaged bytes seem to be, where it says that the message stands here. */
  async #recordOf(position: Position, bytes: Uint8Array): Promise<StatusRecord | undefined> {
    const { statuses, whileUnavailable } = this.#deps;
    const id = idIn(bytes);
    if (id === undefined) return undefined;
    const [record] = await whileUnavailable(() => statuses.get([id]));
    return record !== DAMAGED && record?.position === position ? record : undefined;
  }
}

function idIn(bytes: Uint8Array): string | undefined {
  try {
    const { kind } = LogEventWire.decode(bytes);
    const id = kind.case === 'message' ? kind.value.serverMessageId : '';
    return isUuid(id) ? id : undefined;
  } catch {
    return undefined;
  }
}
