import { randomUUID } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import type { LogConsumer, LogRecord, MessageLog, Position } from '@chatmesh/chat';
import { type LogEvent, LogEventSchema } from '@chatmesh/gen/chat/v1/log';
import { type Engine, type Opened, until } from './engine.js';

/** An engine of the log. */
export interface LogEngine extends Engine<MessageLog> {
  /** @param now the publishers' clock; the machine's unless given */
  open(location: string, now?: () => number): Promise<Opened<MessageLog>>;
  /** Whether `mayRepeat` is true only where it has to be. */
  readonly tellsNewAtOnce: boolean;
}

/** A message to `userId` that is told apart by its id. */
export function eventFor(userId: string, id: string = randomUUID()): LogEvent {
  return create(LogEventSchema, {
    userId,
    kind: { case: 'message', value: { serverMessageId: id, payload: Buffer.from(`content of ${id}`) } },
  });
}

/** The id that {@link eventFor} gave. */
export function idOf(event: LogEvent): string {
  return event.kind.case === 'message' ? event.kind.value.serverMessageId : '';
}

/** A consumer under observation. */
export interface Member {
  readonly name: string;
  readonly maxUnacknowledged: number;
  /** What it holds, oldest first. */
  readonly held: Map<string, LogRecord>;
  consumer: LogConsumer;
  left: boolean;
}

/** The events of one key in the order of publishing, and how far they have come. */
interface Stream {
  readonly ids: string[];
  /** The first event that is neither acknowledged nor held: the only one that may be handed out. */
  due: number;
}

interface Known {
  readonly key: string;
  readonly index: number;
  /** The opening of the log in which it was published. */
  readonly opening: number;
  position: Position | undefined;
  acknowledged: boolean;
  handedOut: boolean;
  holder: Member | undefined;
}

/**
 * Publishes, joins, acknowledges and leaves on behalf of a test and holds everything that the log hands out against the
 * model: one list of events for each key, of which the first that nobody holds is due, at the key's only holder.
 */
export class Witness {
  #log: MessageLog;
  #opening = 0;
  #anyoneLeft = false;
  #names = 0;
  #acknowledged = 0;
  readonly #known = new Map<string, Known>();
  readonly #streams = new Map<string, Stream>();
  readonly #members = new Set<Member>();
  readonly #broken: string[] = [];
  readonly #tellsNewAtOnce: boolean;

  constructor(log: MessageLog, { tellsNewAtOnce }: Pick<LogEngine, 'tellsNewAtOnce'>) {
    this.#log = log;
    this.#tellsNewAtOnce = tellsNewAtOnce;
  }

  /** Goes on with the log opened again: all members are gone. */
  reopened(log: MessageLog): void {
    for (const member of this.#members) this.#release(member);
    this.#log = log;
    this.#opening++;
    this.#anyoneLeft = false;
  }

  get members(): Member[] {
    return [...this.#members];
  }

  get unacknowledged(): number {
    return this.#known.size - this.#acknowledged;
  }

  /** Publishes one event for each key given, in one call. */
  async publish(keys: readonly string[]): Promise<string[]> {
    const events = keys.map((key) => eventFor(key));
    for (const event of events) {
      const stream = this.#streams.get(event.userId) ?? { ids: [], due: 0 };
      this.#streams.set(event.userId, stream);
      this.#known.set(idOf(event), {
        key: event.userId,
        index: stream.ids.length,
        opening: this.#opening,
        position: undefined,
        acknowledged: false,
        handedOut: false,
        holder: undefined,
      });
      stream.ids.push(idOf(event));
    }
    const positions = await this.#log.publish(events);
    if (positions.length !== events.length)
      this.#broken.push(`${positions.length} positions for ${events.length} events`);
    for (const [i, event] of events.entries()) this.#placed(idOf(event), positions[i] as Position);
    return events.map(idOf);
  }

  async join(maxUnacknowledged = 1000): Promise<Member> {
    const member: Member = {
      name: `consumer ${++this.#names}`,
      maxUnacknowledged,
      held: new Map(),
      consumer: undefined as unknown as LogConsumer,
      left: false,
    };
    this.#members.add(member);
    member.consumer = await this.#log.consume((records) => this.#handed(member, records), {
      maxUnacknowledged,
      lost: (tenure) => this.#lost(member, tenure),
    });
    return member;
  }

  /** Acknowledges some of what a member holds; everything unless told what. */
  acknowledge(member: Member, ids: readonly string[] = [...member.held.keys()]): void {
    const records: LogRecord[] = [];
    for (const id of ids) {
      const record = member.held.get(id);
      if (!record) continue;
      records.push(record);
      member.held.delete(id);
      const known = this.#known.get(id) as Known;
      known.holder = undefined;
      known.acknowledged = true;
      this.#acknowledged++;
    }
    member.consumer.acknowledge(records);
  }

  async leave(member: Member): Promise<void> {
    this.#release(member);
    await member.consumer.close();
  }

  /** Resolves when everything published is held or acknowledged. */
  async allHandedOut(): Promise<void> {
    await this.until(
      () => [...this.#streams.values()].every((stream) => stream.due === stream.ids.length),
      'all is handed out',
    );
  }

  /** Acknowledges as it comes, until nothing is left. */
  async drain(): Promise<void> {
    await this.until(() => {
      for (const member of this.#members) if (member.held.size > 0) this.acknowledge(member);
      return this.unacknowledged === 0;
    }, 'all is handed out and acknowledged');
  }

  /** Waits for a condition, and complains as soon as a promise is broken. */
  async until(condition: () => boolean, what: string): Promise<void> {
    await until(() => this.#broken.length > 0 || condition(), what);
    this.check();
  }

  /** @throws the first broken promise. */
  check(): void {
    if (this.#broken.length > 0) throw new Error(`${this.#broken[0]} (${this.#broken.length} in all)`);
  }

  #release(member: Member): void {
    member.left = true;
    this.#anyoneLeft = true;
    this.#members.delete(member);
    for (const id of member.held.keys()) this.#dueAgain(id);
  }

  /** What a member holds of a tenure is somebody else's. */
  #lost(member: Member, tenure: number): void {
    if (member.left) return;
    for (const [id, record] of member.held) {
      if (record.tenure !== tenure) continue;
      member.held.delete(id);
      this.#dueAgain(id);
    }
  }

  #dueAgain(id: string): void {
    const known = this.#known.get(id) as Known;
    known.holder = undefined;
    const stream = this.#streams.get(known.key) as Stream;
    stream.due = Math.min(stream.due, known.index);
  }

  #handed(member: Member, records: readonly LogRecord[]): void {
    for (const record of records) {
      const id = idOf(record.event);
      const known = this.#known.get(id);
      const complain = (what: string) =>
        this.#broken.push(`${member.name} got event ${known?.index} of ${record.event.userId}, ${what}`);
      if (!known || known.key !== record.event.userId) {
        complain('which was not published');
        continue;
      }
      if (member.left) complain('although it has left');
      if (known.acknowledged) complain('although it is acknowledged');
      if (known.holder) complain(`which ${known.holder.name} holds`);
      const stream = this.#streams.get(known.key) as Stream;
      for (const other of this.#members) {
        if (other === member) continue;
        const sharing = [...other.held.values()].some((held) => held.event.userId === known.key);
        if (sharing) complain(`while ${other.name} holds something of the key`);
      }
      if (known.index !== stream.due) complain(`but ${stream.due} is due`);
      if (known.handedOut && !record.mayRepeat) complain('again, but it claims to be new');
      if (this.#tellsNewAtOnce && record.mayRepeat && known.opening === this.#opening && !this.#anyoneLeft)
        complain('new, but it claims to be old');
      this.#placed(id, record.position);
      known.handedOut = true;
      known.holder = member;
      member.held.set(id, record);
      if (member.held.size > member.maxUnacknowledged) complain(`its ${member.held.size}th at a time`);
      while (stream.due < stream.ids.length) {
        const next = this.#known.get(stream.ids[stream.due] as string) as Known;
        if (!next.acknowledged && !next.holder) break;
        stream.due++;
      }
    }
  }

  #placed(id: string, position: Position): void {
    const known = this.#known.get(id) as Known;
    if (known.position === position) return;
    if (known.position !== undefined) this.#broken.push(`an event is at ${known.position} and at ${position}`);
    known.position = position;
    const ids = (this.#streams.get(known.key) as Stream).ids;
    const before = this.#known.get(ids[known.index - 1] ?? '')?.position;
    const after = this.#known.get(ids[known.index + 1] ?? '')?.position;
    const misplaced = (before !== undefined && before >= position) || (after !== undefined && after <= position);
    if (misplaced) this.#broken.push(`${position} is out of order, after ${before} and before ${after}`);
    for (const other of [before, after]) {
      if (other !== undefined && other.length !== position.length)
        this.#broken.push(`${other} and ${position} differ in width`);
    }
  }
}

/** New keys, as users' ids are. */
export function newKeys(count: number): string[] {
  return Array.from({ length: count }, () => randomUUID());
}
