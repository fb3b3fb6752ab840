import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import type { Logger } from '@chatmesh/mesh';
import type { InboxStore } from '../stores/inbox-store.js';
import { DAMAGED, type StatusStore } from '../stores/status-store.js';
import type { Owner } from './owner.js';

const DAY_MS = 24 * 3600 * 1000;
/** How long an undelivered message is kept. */
export const RETENTION_MS = 365 * DAY_MS;
/** Status records outlive the messages, so that a late repeat still finds the answer. */
const STATUS_RETENTION_MS = 380 * DAY_MS;
const SWEEP_EVERY_MS = 3600 * 1000;
const PAGE = 256;

/** Expires what nobody fetched: the sender is told `failed` (`expired`), then the row goes. */
export class Sweeper {
  readonly #deps: { owner: Owner; inbox: InboxStore; statuses: StatusStore; now: () => number; logger: Logger };
  #timer: NodeJS.Timeout | undefined;
  /** The last sweep that was begun. */
  #sweeping: Promise<void> = Promise.resolve();
  #stopped = false;

  constructor(deps: { owner: Owner; inbox: InboxStore; statuses: StatusStore; now: () => number; logger: Logger }) {
    this.#deps = deps;
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.sweep().catch((error) =>
        this.#deps.logger.error({ err: error }, 'the sweep of expired messages stopped; it goes on in an hour'),
      );
    }, SWEEP_EVERY_MS).unref();
  }

  /** Begins nothing more; resolves when what a sweep has begun is done. */
  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    await this.#sweeping.catch(() => {});
  }

  /** Expires everything that is too old now, after any sweep that is under way. */
  sweep(): Promise<void> {
    this.#sweeping = this.#sweeping.catch(() => {}).then(() => this.#sweep());
    return this.#sweeping;
  }

  async #sweep(): Promise<void> {
    const { inbox, statuses, now, logger } = this.#deps;
    const beforeMs = now() - RETENTION_MS;
    let swept = true;
    for (const { userId, deviceId } of await inbox.aged(beforeMs)) {
      if (this.#stopped) return;
      try {
        await this.#sweepInbox(userId, deviceId, beforeMs);
      } catch (error) {
        // One inbox that cannot be read must not keep the others for ever.
        swept = false;
        logger.error(
          { err: error, userId, deviceId },
          'expired messages of a device stay; they are tried again in an hour',
        );
      }
    }
    if (this.#stopped) return;
    if (swept) await inbox.forgetWeeks(beforeMs);
    while (!this.#stopped && (await statuses.expire(now() - STATUS_RETENTION_MS)));
  }

  async #sweepInbox(userId: string, deviceId: string, beforeMs: number): Promise<void> {
    const { owner, inbox, statuses } = this.#deps;
    while (!this.#stopped) {
      const rows = await inbox.page(userId, deviceId, undefined, PAGE);
      const expired: string[] = [];
      for (const { position, payload } of rows) {
        const { kind, givenUp } = LogEventWire.decode(payload);
        const acceptedAtMs = kind.case === 'message' ? kind.value.acceptedAtMs : 0n;
        const atMs = givenUp?.atMs ?? (kind.case === 'receipt' ? kind.value.atMs : acceptedAtMs);
        // Rows stand in the order of acceptance: what follows is younger.
        if (Number(atMs) >= beforeMs) break;
        // A dead letter's sender has been told already.
        if (kind.case === 'message' && !kind.value.copy && !givenUp) {
          const [record] = await statuses.get([kind.value.serverMessageId]);
          // Of a damaged record nobody can say whether it was delivered to another device: its sender is told nothing.
          if (record !== DAMAGED && !record?.deliveredAtMs && !record?.failedAtMs)
            await owner.failMessage(kind.value, record && (() => record), 'expired');
        }
        expired.push(position);
      }
      if (expired.length > 0) await inbox.remove(userId, deviceId, expired);
      if (expired.length < rows.length || rows.length === 0) return;
    }
  }
}
