import type { LogEvent, MessageEvent } from '@chatmesh/gen/chat/v1/log';
import type { Submit } from '@chatmesh/gen/chat/v1/router';
import { LogEventWire, MessageEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import {
  ChurnMap,
  type MeshClock,
  MeshError,
  monotonicMs,
  RecentIdMap,
  type Span,
  sleep,
  type Traces,
  toMeshError,
} from '@chatmesh/mesh';
import type { AcceptLimit } from '../domain/accept-limit.js';
import { standingReceipt } from '../domain/events.js';
import type { Fingerprinter } from '../domain/fingerprint.js';
import { serverMessageId } from '../domain/ids.js';
import type { TokenBuckets } from '../domain/token-bucket.js';
import type { Attempted, Attempts } from '../stores/attempts.js';
import type { MessageLog, Position } from '../stores/message-log.js';
import { DAMAGED, type StatusAnswer, type StatusRecord, type StatusStore } from '../stores/status-store.js';
import type { CachedDirectory, DirectoryUser } from './directory.js';
import { baseRecord } from './ledger.js';

/** What a sender hands in, whoever brings it. */
export type Submission = Pick<
  Submit,
  | 'senderId'
  | 'senderDeviceId'
  | 'receiverId'
  | 'groupId'
  | 'clientMessageId'
  | 'payload'
  | 'sealed'
  | 'traceparent'
  | 'receivedAtMs'
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
export type Answer<S extends Submission = Submission> = (submission: S, result: Acceptance | MeshError) => void;

/** A submission on its way; the event is set when it is decided that it may be accepted. */
interface Pending {
  readonly submission: Submission;
  readonly answer: Answer;
  readonly id: string;
  message: MessageEvent | undefined;
  acceptedAtMs: number;
  /** Where it stands on the log, once it does. */
  position: Position;
  /** Whether the sender has other devices, which get a copy, or may have. */
  copied: boolean;
  /** Where the message is followed. */
  readonly span: Span | undefined;
}

/** More submissions than this waiting for the log are refused with `unavailable`. */
const MAX_PENDING = 50_000;
/** The owner of a recipient may have to be found first. */
const OWNER_RECORDS_MS = 8_000;
const FIRST_LOOK_MS = 10;
/** So many are remembered: their repeats come within seconds. */
const UNRECORDED = 100_000;
const COMPLETED = 100_000;
const LAST_LOOK_MS = 500;
const NO_SPANS: readonly Span[] = [];
const NO_BYTES = new Uint8Array(0);

export interface IngressDeps {
  readonly log: MessageLog;
  readonly statuses: StatusStore;
  /** Undefined where no other router works on the same log. */
  readonly attempts: Attempts | undefined;
  readonly directory: CachedDirectory;
  readonly fingerprints: Fingerprinter;
  readonly rates: TokenBuckets;
  readonly clock: MeshClock;
  readonly limit: AcceptLimit;
  readonly traces?: Traces | undefined;
}

/**
 * Accepts messages: checks, notes the attempt where routers share the log, publishes to the log, writes the status record, answers, in this order. Submissions of one
 * sender are published in the order of the calls; one whose sender or recipient is not in the cache waits for the
 * directory, and only the submissions of the same sender wait with it.
 */
export class Ingress {
  readonly #deps: IngressDeps;
  /** Being accepted, by server_message_id: a repeat that comes meanwhile waits for the first. */
  readonly #inFlight = new ChurnMap<string, Pending[] | undefined>();
  /** Those of them that wait for room, and how many do not. */
  #queue: Pending[] = [];
  #accepting = 0;
  #beginning = false;
  /** Senders whose next submission waits for the directory, and what waits behind it. */
  readonly #waiting = new ChurnMap<string, Pending[]>();
  #turn: Promise<void> = Promise.resolve();
  #batch: Pending[] = [];
  /** What may be on the log without a record that says so: the log did not answer, or the store of the records did not. */
  readonly #unrecorded = new RecentIdMap(UNRECORDED);
  /** Incomplete records whose copies this router has published: whoever repeats for ever does not have that done again. */
  readonly #completed = new RecentIdMap(COMPLETED);
  /** The last batch whose attempts were noted. */
  #noted: Promise<void> = Promise.resolve();
  /** The latest time that other routers gave to messages of senders who came here. */
  #notBeforeMs = 0;
  /** The last copies that were handed to the log. */
  #copied: Promise<void> = Promise.resolve();
  /** The last batch that was published: batches are answered in their order, whichever is durable first. */
  #answered: Promise<void> = Promise.resolve();
  #drained: Promise<void> | undefined;
  /** How many submissions had each result: accepted, repeated, or the kind of the refusal. */
  readonly results = new Map<string, number>([
    ['accepted', 0],
    ['repeated', 0],
  ]);

  constructor(deps: IngressDeps) {
    this.#deps = deps;
  }

  /** Submissions that have no answer yet. */
  get pending(): number {
    return this.#inFlight.size;
  }

  /** Takes no more submissions; resolves when those so far have their answers. */
  drain(): Promise<void> {
    this.#drained ??= this.#untilIdle();
    return this.#drained;
  }

  async #untilIdle(): Promise<void> {
    while (this.#inFlight.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Takes submissions; each is answered once. */
  submit<S extends Submission>(submissions: readonly S[], answer: Answer<S>): void {
    for (const submission of submissions) {
      const span = submission.traceparent === '' ? undefined : this.#follow(submission);
      if (this.#drained) {
        const leaving = new MeshError('unavailable', 'not accepted: the router is leaving, send again');
        // Not before those ahead of it have their answers: another router may be asked, and must not be faster.
        void this.#drained.then(() => this.#answer({ submission, answer: answer as Answer, span }, leaving));
        continue;
      }
      const id = serverMessageId(submission.senderId, submission.clientMessageId);
      const next: Pending = {
        submission,
        answer: answer as Answer,
        id,
        message: undefined,
        acceptedAtMs: 0,
        position: '',
        copied: false,
        span,
      };
      if (this.#inFlight.has(id)) {
        // The same message is on its way: what becomes of it decides, and then this is a repeat.
        const behind = this.#inFlight.get(id);
        if (behind) behind.push(next);
        else this.#inFlight.set(id, [next]);
        continue;
      }
      if (this.#inFlight.size >= MAX_PENDING) {
        const tooMany = new MeshError('unavailable', 'too many messages wait to be accepted');
        this.#answer(next, tooMany);
        continue;
      }
      this.#inFlight.set(id, undefined);
      this.#queue.push(next);
    }
    this.#begin();
  }

  /** Begins with as many as there is room for. */
  #begin(): void {
    this.#beginning = false;
    const room = this.#deps.limit.value - this.#accepting;
    if (room <= 0 || this.#queue.length === 0) return;
    const pending = this.#queue.length <= room ? this.#queue : this.#queue.slice(0, room);
    this.#queue = pending === this.#queue ? [] : this.#queue.slice(room);
    this.#accepting += pending.length;
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

  #check(pending: Pending, record: StatusAnswer): void {
    const { submission } = pending;
    if (submission.groupId !== '') {
      this.#finish(pending, new MeshError('unimplemented', 'groups are not available yet'));
      return;
    }
    if (record === DAMAGED) {
      this.#finish(pending, unanswerable());
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
      void this.#ask(pending, sender, receiver);
      return;
    }
    this.#decide(pending, sender, receiver);
  }

  /** Asks the directory for those who are not known, then goes on with this submission and those of the same sender behind it. */
  async #ask(
    pending: Pending,
    knownSender: DirectoryUser | null | undefined,
    knownReceiver: DirectoryUser | null | undefined,
  ): Promise<void> {
    const { directory } = this.#deps;
    const { senderId, receiverId } = pending.submission;
    try {
      const [sender, receiver] = await Promise.all([
        knownSender === undefined ? directory.find(senderId) : knownSender,
        knownReceiver === undefined ? directory.find(receiverId) : knownReceiver,
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
    pending.copied = wantsCopy(submission, sender);
    const acceptedAtMs = this.#deps.clock.now();
    const message = this.#messageOf(pending, acceptedAtMs);
    message.mayBeSecond = this.#unrecorded.get(id) !== undefined;
    pending.message = message;
    pending.acceptedAtMs = acceptedAtMs;
    if (this.#batch.length === 0) queueMicrotask(() => this.#acceptBatch());
    this.#batch.push(pending);
  }

  #messageOf({ submission, id, span }: Pending, acceptedAtMs: number): MessageEvent {
    // Fields are set one by one: that costs a third of creating the message from an initialiser.
    const message = MessageEventWire.create();
    message.serverMessageId = id;
    message.clientMessageId = submission.clientMessageId;
    message.senderId = submission.senderId;
    message.senderDeviceId = submission.senderDeviceId;
    message.receiverId = submission.receiverId;
    message.acceptedAtMs = BigInt(acceptedAtMs);
    message.payload = submission.payload as Uint8Array<ArrayBuffer>;
    message.fingerprint = this.#fingerprint(submission);
    message.traceparent = span?.traceparent ?? submission.traceparent;
    message.receivedAtMs = submission.receivedAtMs;
    return message;
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
    if (!this.#deps.log.takesMessages(submission.receiverId))
      return new MeshError('unavailable', 'not accepted: too much waits to be delivered, send again later');
    const retryAfterMs = this.#deps.rates.take(submission.senderId, monotonicMs());
    if (retryAfterMs > 0) return new MeshError('resource_exhausted', 'too many messages', { retryAfterMs });
    return undefined;
  }

  #acceptBatch(): void {
    const batch = this.#batch as Decided[];
    this.#batch = [];
    const { attempts } = this.#deps;
    if (!attempts) {
      this.#answered = this.#accept(batch, this.#answered);
      return;
    }
    const bySender = new Map<string, Decided[]>();
    for (const pending of batch) {
      const { senderId } = pending.submission;
      const others = bySender.get(senderId);
      if (others) others.push(pending);
      else bySender.set(senderId, [pending]);
    }
    const noted = [...bySender].map(async ([senderId, messages]) => {
      const latestMs = Math.max(...messages.map(({ acceptedAtMs }) => acceptedAtMs));
      const notes = messages.map(({ id, message }) => ({ serverMessageId: id, fingerprint: message.fingerprint }));
      return { senderId, messages, attempted: await attempts.begin(senderId, latestMs, notes) };
    });
    // Notes are made side by side; batches are published in their order.
    this.#noted = this.#noted.then(async () => {
      const refused = new Set<Decided>();
      for (const { senderId, messages, attempted } of await Promise.all(noted)) {
        this.#learn(senderId, attempted);
        for (const [i, pending] of messages.entries())
          if (!this.#attempt(pending, attempted.before, attempted.first[i])) refused.add(pending);
      }
      const accepted = refused.size === 0 ? batch : batch.filter((pending) => !refused.has(pending));
      if (accepted.length > 0) this.#answered = this.#accept(accepted, this.#answered);
    });
  }

  /** What another router has done for a sender is news to this one. */
  #learn(senderId: string, { before, latestMs }: Attempted): void {
    if (before === 'elsewhere') this.#deps.directory.forget(senderId);
    if (latestMs <= this.#notBeforeMs) return;
    this.#notBeforeMs = latestMs;
    this.#deps.clock.hear(latestMs);
  }

  /**
   * Decides how a message is accepted beside what other routers, or attempts that failed, have done: no earlier than the sender's
   * other messages, with a copy unless it is certain that the sender has no other device, and by the record of the owner where
   * there may be a copy already. False when the first attempt was at another content.
   */
  #attempt(pending: Decided, before: Attempted['before'], first: string | undefined): boolean {
    const { submission, message } = pending;
    if (first !== undefined && first !== message.fingerprint) {
      this.#finish(pending, usedBefore());
      return false;
    }
    if (pending.acceptedAtMs < this.#notBeforeMs) {
      pending.acceptedAtMs = this.#notBeforeMs;
      message.acceptedAtMs = BigInt(this.#notBeforeMs);
    }
    if (first !== undefined) message.mayBeSecond = true;
    const sender =
      before === 'here' || before === 'nobody' ? this.#deps.directory.peek(submission.senderId) : undefined;
    pending.copied ||= submission.senderId !== submission.receiverId && (!sender || wantsCopy(submission, sender));
    return true;
  }

  /**
   * Publishes what was decided together, then the copies, so that there is none of a message that was not accepted, writes the
   * records with what is published last, then answers when the batch before has its answers.
   */
  async #accept(batch: readonly Decided[], before: Promise<void>): Promise<void> {
    const publishing = this.#publishing(batch);
    const originals = batch.map(({ submission, message }) => eventOf(submission.receiverId, message));
    const copied = batch.filter(({ copied, message }) => copied && !message.mayBeSecond);
    let recorded: Promise<void> | undefined;
    try {
      const published = this.#deps.log.publish(originals, (positions) => {
        for (const [i, pending] of batch.entries()) pending.position = positions[i] as Position;
        recorded = this.#record(batch, false);
      });
      if (copied.length === 0) await published;
      else await this.#publishCopies(copied, published);
      for (const span of publishing) span.end();
      await recorded;
      await before;
      let seconds: Set<Decided> | undefined;
      for (const pending of batch) {
        if (!pending.message.mayBeSecond) this.#finish(pending, acceptanceOf(pending));
        else if (seconds) seconds.add(pending);
        else seconds = new Set([pending]);
      }
      if (seconds) void this.#answerAsRecorded(seconds);
    } catch (error) {
      const { message, kind } = toMeshError(error);
      for (const span of publishing) span.end({}, kind);
      for (const { id } of batch) this.#unrecorded.set(id, 1);
      await before;
      for (const accepted of batch) this.#finish(accepted, new MeshError('unavailable', `not accepted: ${message}`));
    }
  }

  /**
   * Writes the records of those of a batch that have copies, or of those that have none. Never rejects: where no record could be
   * written the log has the message all the same, and the owner of the recipient writes one before the log may forget it.
   */
  async #record(batch: readonly Decided[], copied: boolean): Promise<void> {
    const records: StatusRecord[] = [];
    for (const pending of batch) {
      // Which of two copies counts only the owner knows.
      if (pending.message.mayBeSecond || pending.copied !== copied) continue;
      records.push(baseRecord(pending.message, pending.position, true) as StatusRecord);
    }
    if (records.length === 0) return;
    await this.#deps.statuses.accept(records).catch(() => {
      for (const { serverMessageId } of records) this.#unrecorded.set(serverMessageId, 1);
    });
  }

  /** Publishes the copies of messages when these are published, in the order of the batches. */
  async #publishCopies(copied: readonly Decided[], originals: Promise<unknown>): Promise<void> {
    const copies = copied.map(({ submission, message }) => eventOf(submission.senderId, { ...message, copy: true }));
    let recorded: Promise<void> | undefined;
    const record = () => {
      recorded = this.#record(copied, true);
    };
    const before = this.#copied;
    const handed = Promise.all([originals, before]).then(() => ({ durable: this.#deps.log.publish(copies, record) }));
    this.#copied = handed.then(
      () => {},
      () => before,
    );
    await (await handed).durable;
    await recorded;
  }

  /** Answers as the records say that the owners of the recipients write: of two copies they know which one comes first. */
  async #answerAsRecorded(pending: Set<Decided>): Promise<void> {
    const untilMs = monotonicMs() + OWNER_RECORDS_MS;
    try {
      for (let waitMs = FIRST_LOOK_MS; ; waitMs = Math.min(LAST_LOOK_MS, 2 * waitMs)) {
        const asked = [...pending];
        const records = await this.#deps.statuses.get(asked.map(({ id }) => id));
        for (const [i, record] of records.entries()) {
          const one = asked[i] as Decided;
          if (!record) continue;
          pending.delete(one);
          if (record === DAMAGED) this.#finish(one, unanswerable());
          else if (record.position === one.position) void this.#finishWhole(one, acceptanceOf(one));
          else this.#repeat(one, record);
        }
        if (pending.size === 0) return;
        if (monotonicMs() >= untilMs) throw new MeshError('unavailable', 'the owner of the recipient is away');
        await sleep(waitMs);
      }
    } catch (error) {
      const { message } = toMeshError(error);
      for (const one of pending) this.#finish(one, new MeshError('unavailable', `not certain yet: ${message}`));
    }
  }

  #follow({ traceparent }: Submission): Span | undefined {
    return this.#deps.traces?.begin('chat.accept', { parent: traceparent });
  }

  #publishing(batch: readonly Pending[]): readonly Span[] {
    const { traces } = this.#deps;
    if (!traces) return NO_SPANS;
    const spans: Span[] = [];
    for (const { span } of batch) if (span) spans.push(traces.begin('log.publish', { parent: span.traceparent }));
    return spans;
  }

  #repeat(pending: Pending, record: StatusRecord): void {
    const { submission } = pending;
    if (record.recipientId !== submission.receiverId || record.fingerprint !== this.#fingerprint(submission)) {
      this.#finish(pending, usedBefore());
      return;
    }
    // Another router's clock may have been ahead: what this sender sends next is no earlier.
    this.#deps.clock.hear(record.acceptedAtMs);
    const repeated: Acceptance = {
      serverMessageId: record.serverMessageId,
      acceptedAtMs: record.acceptedAtMs,
      deduplicated: true,
      receipt: standingReceipt(record),
    };
    if (record.complete || this.#completed.get(pending.id) !== undefined) this.#finish(pending, repeated);
    else void this.#finishWhole(pending, repeated);
  }

  /** Answers when the copies of a message are published whose acceptance may not have come so far. They bear its time. */
  async #finishWhole(pending: Pending, acceptance: Acceptance): Promise<void> {
    const { directory, log } = this.#deps;
    const { submission } = pending;
    try {
      const sender = directory.peek(submission.senderId) ?? (await directory.find(submission.senderId));
      if (wantsCopy(submission, sender)) {
        const message = { ...this.#messageOf(pending, acceptance.acceptedAtMs), copy: true, mayBeSecond: true };
        await log.publish([eventOf(submission.senderId, message)]);
      }
      this.#completed.set(pending.id, 1);
      this.#finish(pending, acceptance);
    } catch (error) {
      const { message } = toMeshError(error);
      this.#finish(pending, new MeshError('unavailable', `not certain yet: ${message}`));
    }
  }

  /** Of sealed content only the recipient is compared: sealing the same text twice gives other bytes. */
  #fingerprint(submission: Submission): string {
    return this.#deps.fingerprints.of(submission.receiverId, submission.sealed ? NO_BYTES : submission.payload);
  }

  #finish(pending: Pending, result: Acceptance | MeshError): void {
    const { id } = pending;
    const behind = this.#inFlight.get(id);
    this.#inFlight.delete(id);
    this.#accepting--;
    this.#answer(pending, result);
    if (this.#queue.length > 0 && !this.#beginning) {
      // Those that are answered together make room together.
      this.#beginning = true;
      queueMicrotask(() => this.#begin());
    }
    if (!behind) return;
    for (const repeat of behind) {
      if (result instanceof MeshError) this.#answer(repeat, result);
      else this.submit([repeat.submission], repeat.answer);
    }
  }

  #answer(
    { submission, answer, span }: Pick<Pending, 'submission' | 'answer' | 'span'>,
    result: Acceptance | MeshError,
  ): void {
    const name = result instanceof MeshError ? result.kind : result.deduplicated ? 'repeated' : 'accepted';
    this.results.set(name, (this.results.get(name) ?? 0) + 1);
    answer(submission, result);
    if (!span) return;
    if (result instanceof MeshError) span.end({ 'chatmesh.result': name }, name);
    else span.end({ 'chatmesh.result': name, 'chatmesh.server_message_id': result.serverMessageId });
  }
}

/**
 * The message was accepted once, and nothing else is known of it: it is neither told so, since when is lost, nor accepted again,
 * since it may have been delivered.
 */
function unanswerable(): MeshError {
  return new MeshError(
    'internal',
    'what became of the first message with this client_message_id is lost; where it has to arrive, send it under another one',
  );
}

function usedBefore(): MeshError {
  return new MeshError('already_exists', 'this client_message_id was used for another recipient or content');
}

type Decided = Pending & { message: MessageEvent };

function acceptanceOf({ id, acceptedAtMs }: Decided): Acceptance {
  return { serverMessageId: id, acceptedAtMs, deduplicated: false, receipt: undefined };
}

/** Whether the sender has other devices. */
function wantsCopy({ senderId, senderDeviceId, receiverId }: Submission, sender: DirectoryUser | null): boolean {
  return senderId !== receiverId && sender !== null && sender.deviceIds.some((id) => id !== senderDeviceId);
}

function eventOf(userId: string, message: MessageEvent): LogEvent {
  const event = LogEventWire.create();
  event.userId = userId;
  event.kind = { case: 'message', value: message };
  return event;
}
