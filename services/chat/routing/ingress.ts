import { create } from '@bufbuild/protobuf';
import { type LogEvent, LogEventSchema, MessageEventSchema } from '@chatmesh/gen/chat/v1/log';
import type { Submit } from '@chatmesh/gen/chat/v1/router';
import { MeshError, toMeshError } from '@chatmesh/mesh';
import { standingReceipt } from '../domain/events.js';
import type { Fingerprinter } from '../domain/fingerprint.js';
import { serverMessageId } from '../domain/ids.js';
import type { TokenBuckets } from '../domain/token-bucket.js';
import type { MessageLog } from '../stores/message-log.js';
import type { StatusRecord, StatusStore } from '../stores/status-store.js';
import type { CachedDirectory, DirectoryUser } from './directory.js';
import { baseRecord } from './ledger.js';

/** What a sender hands in, whoever brings it. */
export type Submission = Pick<
  Submit,
  'senderId' | 'senderDeviceId' | 'receiverId' | 'groupId' | 'clientMessageId' | 'payload' | 'sealed'
>;

/** The message is durable. */
export interface Acceptance {
  readonly serverMessageId: string;
  readonly acceptedAtMs: number;
  readonly deduplicated: boolean;
  /** For a repeat: the receipt that says how far the original has come, as an encoded LogEvent. */
  readonly receipt: Uint8Array | undefined;
}

/** Called once per submission, when it is durable or refused. */
export type Answer = (result: Acceptance | MeshError) => void;

interface Pending {
  readonly submission: Submission;
  readonly answer: Answer;
  readonly id: string;
}

interface Accepted extends Pending {
  readonly event: LogEvent;
  readonly acceptedAtMs: number;
  record: StatusRecord | undefined;
}

/** More submissions than this waiting for the log are refused with `unavailable`. */
const MAX_PENDING = 50_000;
const NO_BYTES = new Uint8Array(0);

export interface IngressDeps {
  readonly log: MessageLog;
  readonly statuses: StatusStore;
  readonly directory: CachedDirectory;
  readonly fingerprints: Fingerprinter;
  readonly rates: TokenBuckets;
  /** Never goes back, so that no sender's timestamps do. */
  readonly now: () => number;
}

/**
 * Accepts messages: checks, publishes to the log, writes the status record, answers, in this order. Submissions of one
 * sender are published in the order of the calls; one whose sender or recipient is not in the cache waits for the
 * directory, and only the submissions of the same sender wait with it.
 */
export class Ingress {
  readonly #deps: IngressDeps;
  /** Being accepted, by server_message_id: a repeat that comes meanwhile waits for the first. */
  readonly #inFlight = new Map<string, Answer[]>();
  /** Senders whose next submission waits for the directory, and what waits behind it. */
  readonly #waiting = new Map<string, Pending[]>();
  #turn: Promise<void> = Promise.resolve();
  #batch: Accepted[] = [];

  constructor(deps: IngressDeps) {
    this.#deps = deps;
  }

  /** Submissions that have no answer yet. */
  get pending(): number {
    return this.#inFlight.size;
  }

  /** Resolves when every submission so far has its answer. */
  async settled(): Promise<void> {
    while (this.#inFlight.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Takes submissions; each is answered once. */
  submit(submissions: readonly { submission: Submission; answer: Answer }[]): void {
    const pending: Pending[] = [];
    for (const { submission, answer } of submissions) {
      const id = serverMessageId(submission.senderId, submission.clientMessageId);
      const first = this.#inFlight.get(id);
      if (first) {
        // The same message is on its way: what becomes of it decides, and then this is a repeat.
        first.push((result) => {
          if (result instanceof MeshError) answer(result);
          else this.submit([{ submission, answer }]);
        });
        continue;
      }
      if (this.#inFlight.size >= MAX_PENDING) {
        answer(new MeshError('unavailable', 'too many messages wait to be accepted'));
        continue;
      }
      this.#inFlight.set(id, []);
      pending.push({ submission, answer, id });
    }
    if (pending.length === 0) return;
    const looked = this.#deps.statuses.get(pending.map((p) => p.id));
    looked.catch(() => {});
    // Look-ups run side by side; what they find is taken in the order of arrival.
    this.#turn = this.#turn.then(async () => {
      try {
        const records = await looked;
        for (const [i, p] of pending.entries()) this.#check(p, records[i]);
      } catch (error) {
        for (const p of pending) this.#finish(p, toMeshError(error));
      }
    });
  }

  #check(pending: Pending, record: StatusRecord | undefined): void {
    const { submission } = pending;
    if (submission.groupId !== '') {
      this.#finish(pending, new MeshError('unimplemented', 'groups are not available yet'));
      return;
    }
    if (record) {
      this.#repeat(pending, record);
      return;
    }
    const queue = this.#waiting.get(submission.senderId);
    if (queue) {
      queue.push(pending);
      return;
    }
    const sender = this.#deps.directory.peek(submission.senderId);
    const receiver = this.#deps.directory.peek(submission.receiverId);
    if (sender === undefined || receiver === undefined) {
      this.#waiting.set(submission.senderId, []);
      void this.#ask(pending);
      return;
    }
    this.#decide(pending, sender, receiver);
  }

  /** Asks the directory, then goes on with this submission and those of the same sender behind it. */
  async #ask(pending: Pending): Promise<void> {
    const { directory } = this.#deps;
    const { senderId, receiverId } = pending.submission;
    try {
      const [sender, receiver] = await Promise.all([
        directory.peek(senderId) ?? directory.find(senderId),
        directory.peek(receiverId) ?? directory.find(receiverId),
      ]);
      this.#decide(pending, sender, receiver);
    } catch (error) {
      const { message } = toMeshError(error);
      this.#finish(pending, new MeshError('unavailable', `the directory does not answer: ${message}`));
    }
    const behind = this.#waiting.get(senderId) ?? [];
    this.#waiting.delete(senderId);
    // Goes through the same door again: the next one may have to wait for another recipient.
    for (const next of behind) this.#check(next, undefined);
  }

  #decide(pending: Pending, sender: DirectoryUser | null, receiver: DirectoryUser | null): void {
    const { submission, id } = pending;
    const refusal = this.#refusal(submission, sender, receiver);
    if (refusal) {
      this.#finish(pending, refusal);
      return;
    }
    const acceptedAtMs = this.#deps.now();
    // Fields are set one by one: that costs a third of creating the message from an initialiser.
    const message = create(MessageEventSchema);
    message.serverMessageId = id;
    message.clientMessageId = submission.clientMessageId;
    message.senderId = submission.senderId;
    message.senderDeviceId = submission.senderDeviceId;
    message.receiverId = submission.receiverId;
    message.acceptedAtMs = BigInt(acceptedAtMs);
    message.payload = submission.payload as Uint8Array<ArrayBuffer>;
    message.fingerprint = this.#fingerprint(submission);
    const event = create(LogEventSchema);
    event.userId = submission.receiverId;
    event.kind = { case: 'message', value: message };
    if (this.#batch.length === 0) setImmediate(() => void this.#accept());
    this.#batch.push({ ...pending, event, acceptedAtMs, record: undefined });
  }

  #refusal(
    submission: Submission,
    sender: DirectoryUser | null,
    receiver: DirectoryUser | null,
  ): MeshError | undefined {
    if (!sender || sender.suspended) return new MeshError('permission_denied', 'the sender may not send');
    if (!receiver) return new MeshError('not_found', 'no such recipient');
    if (receiver.blockedUserIds.has(submission.senderId))
      return new MeshError('permission_denied', 'the recipient does not accept messages from this sender');
    const retryAfterMs = this.#deps.rates.take(submission.senderId, this.#deps.now());
    if (retryAfterMs > 0) return new MeshError('resource_exhausted', 'too many messages', { retryAfterMs });
    return undefined;
  }

  /** Publishes what this turn has decided, then writes the records, then answers. */
  async #accept(): Promise<void> {
    const batch = this.#batch;
    this.#batch = [];
    const events: LogEvent[] = [];
    for (const accepted of batch) {
      events.push(accepted.event);
      const copy = this.#copyOf(accepted);
      if (copy) events.push(copy);
    }
    try {
      const positions = await this.#deps.log.publish(events);
      const records: StatusRecord[] = [];
      let at = 0;
      for (const accepted of batch) {
        const { event } = accepted;
        const record = baseRecord(
          event.kind.case === 'message' ? event.kind.value : undefined,
          positions[at++] as string,
        );
        if (events[at] !== undefined && isCopy(events[at] as LogEvent)) at++;
        records.push(record as StatusRecord);
      }
      await this.#deps.statuses.accept(records);
      for (const accepted of batch) {
        this.#finish(accepted, {
          serverMessageId: accepted.id,
          acceptedAtMs: accepted.acceptedAtMs,
          deduplicated: false,
          receipt: undefined,
        });
      }
    } catch (error) {
      const { message } = toMeshError(error);
      for (const accepted of batch) this.#finish(accepted, new MeshError('unavailable', `not accepted: ${message}`));
    }
  }

  /** The copy for the sender's own other devices, if there are any. */
  #copyOf({ submission, event }: Accepted): LogEvent | undefined {
    if (submission.senderId === submission.receiverId || event.kind.case !== 'message') return undefined;
    const sender = this.#deps.directory.peek(submission.senderId);
    if (!sender?.deviceIds.some((id) => id !== submission.senderDeviceId)) return undefined;
    return create(LogEventSchema, {
      userId: submission.senderId,
      kind: { case: 'message', value: { ...event.kind.value, copy: true } },
    });
  }

  #repeat(pending: Pending, record: StatusRecord): void {
    const { submission } = pending;
    if (record.recipientId !== submission.receiverId || record.fingerprint !== this.#fingerprint(submission)) {
      this.#finish(
        pending,
        new MeshError('already_exists', 'this client_message_id was used for another recipient or content'),
      );
      return;
    }
    this.#finish(pending, {
      serverMessageId: record.serverMessageId,
      acceptedAtMs: record.acceptedAtMs,
      deduplicated: true,
      receipt: standingReceipt(record),
    });
  }

  /** Of sealed content only the recipient is compared: sealing the same text twice gives other bytes. */
  #fingerprint(submission: Submission): string {
    return this.#deps.fingerprints.of(submission.receiverId, submission.sealed ? NO_BYTES : submission.payload);
  }

  #finish(pending: Pending, result: Acceptance | MeshError): void {
    const behind = this.#inFlight.get(pending.id) ?? [];
    this.#inFlight.delete(pending.id);
    pending.answer(result);
    for (const answer of behind) answer(result);
  }
}

function isCopy(event: LogEvent): boolean {
  return event.kind.case === 'message' && event.kind.value.copy;
}
