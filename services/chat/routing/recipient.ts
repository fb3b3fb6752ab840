import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import type { ConfirmationEvent, MessageEvent, SessionEvent } from '@chatmesh/gen/chat/v1/log';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { ChurnMap, monotonicMs } from '@chatmesh/mesh';
import { confirmableId, deviceMark, type LogEvent, receiptOf, traceparentOf } from '../domain/events.js';
import { UNCLAIMED_DEVICE } from '../domain/ids.js';
import { type AnnouncedSession, orderBeside } from '../domain/session-order.js';
import type { InboxRow } from '../stores/inbox-store.js';
import type { LogRecord, Position } from '../stores/message-log.js';
import { DAMAGED, NOTHING_NEW, type StatusRecord } from '../stores/status-store.js';
import { type Delivery, Device, type Tracked } from './device.js';
import type { EdgeLink } from './edge-link.js';
import type { LateResult } from './late-confirmations.js';
import { baseRecord, type Confirmer } from './ledger.js';
import type { LocatedSession, Owner } from './owner.js';

const PAGE = 256;
/** A drain goes on when so many rows fit: a page for every single confirmation would cost more than it brings. */
const MIN_PAGE = 32;
const CLOSE_BY_OPERATOR = [1008, 'ended by an operator'] as const;
const CLOSE_SUSPENDED = [4403, 'the user is suspended'] as const;
const CLOSE_REPLACED = [4409, 'replaced by a newer connection of the same device'] as const;
/** A user has ten devices: more sessions than this are of edges that are gone. */
const MAX_ELSEWHERE = 32;
const NOWHERE: readonly SessionPlace[] = [];

/** A session's opening, as the log tells it. */
interface OpenedSession extends AnnouncedSession {
  readonly deviceId: string;
  readonly position: Position;
}

type SessionPlace = Pick<LocatedSession, 'edgeId' | 'session'>;

/**
 * The actor of one user: the only one that decides what the user's devices are sent. Records of the log are handled one
 * after another; a step that has to wait holds the ones behind it.
 */
export class Recipient {
  readonly userId: string;
  readonly devices = new Map<string, Device>();
  /** False where the user's "read" counts as "delivered". */
  readReceipts = true;
  /** When it last had something to do, by the monotonic clock; decides when it is forgotten. */
  idleSinceMs = 0;
  readonly #owner: Owner;
  /** Events in a window or settling, by id. */
  readonly #tracked = new ChurnMap<string, Tracked>();
  #waiting: LogRecord[] = [];
  #busy = true;
  #exists = true;
  /** Sessions of the user are refused; each that opens has the directory asked again. */
  #suspended = false;
  #abandoned = false;
  readonly #sinceMs: number;
  /** What a step waits for, while `#busy`. */
  #waitsFor = 'the directory';
  /**
   * Every row from here on was put into the inbox by this actor, which has seen all that was confirmed of them: it need not ask
   * for their status. Undefined before its first event that is new for certain, and for good once a confirmation came late.
   */
  #knowsFrom: Position | undefined;
  #knowsAll = true;
  /** Sessions whose edges have no stream to this router yet, the one heard of last at the end. */
  #elsewhere = NOWHERE;

  /** @param tenure of the records that this actor handles: it ends when the user's key goes to another owner. */
  constructor(
    owner: Owner,
    userId: string,
    readonly tenure: number,
  ) {
    this.#owner = owner;
    this.userId = userId;
    this.#sinceMs = owner.now();
  }

  /** Nothing is on its way and nobody is connected. */
  get idle(): boolean {
    if (this.#busy || this.#waiting.length > 0 || this.#tracked.size > 0) return false;
    for (const device of this.devices.values()) if (!device.idle) return false;
    return true;
  }

  /** The user is another owner's. */
  get abandoned(): boolean {
    return this.#abandoned;
  }

  /** How it stands, for an operator. */
  describe() {
    const onLog = [...this.#tracked.values()].filter(({ record }) => record);
    return {
      sinceMs: this.#sinceMs,
      suspended: this.#suspended,
      waitsFor: this.#busy ? this.#waitsFor : '',
      waitingEvents: this.#waiting.length,
      unacknowledged: onLog.length + this.#waiting.length,
      devices: [...this.devices.values()],
    };
  }

  /** Which devices were sent an event and have not confirmed it, and whether the log still has it for this actor. */
  whereabouts(id: string): { transmitted: Map<string, Delivery>; onLog: boolean } {
    const transmitted = new Map<string, Delivery>();
    for (const device of this.devices.values()) {
      const delivery = device.window.get(id);
      if (delivery) transmitted.set(device.id, delivery);
    }
    const waits = this.#waiting.some(({ event }) => confirmableId(event) === id);
    return { transmitted, onLog: waits || this.#tracked.get(id)?.record !== undefined };
  }

  /** Loads what the stores know of the user; records wait meanwhile. */
  async load(): Promise<void> {
    const [user, sessions] = await Promise.all([this.#owner.find(this.userId), this.#owner.locate(this.userId)]);
    this.#exists = user !== null;
    if (user) {
      this.#suspended = user.suspended;
      this.readReceipts = user.readReceipts;
      for (const id of user.deviceIds) this.#register(id);
      const first = this.devices.values().next().value;
      if (first) await this.#claim(first);
      // An owner that cannot be reached may have them still: only their edges know how new they are.
      for (const place of sessions)
        if (this.devices.has(place.deviceId) && !this.#isAnnounced(place)) this.#want(place);
    }
    this.#busy = false;
    this.#advance();
  }

  /** An edge has connected: it announces here which of the user's sessions it has, whoever owns them so far. */
  linked(link: EdgeLink): void {
    if (this.#elsewhere.length === 0) return;
    for (const { edgeId, session } of this.#elsewhere) if (edgeId === link.edgeId) link.want(session);
    this.#elsewhere = this.#elsewhere.filter(({ edgeId }) => edgeId !== link.edgeId);
  }

  #want({ edgeId, session }: SessionPlace): void {
    if (this.#abandoned) return;
    const link = this.#owner.link(edgeId);
    if (link) link.want(session);
    else this.#elsewhere = [...this.#elsewhere, { edgeId, session }].slice(-MAX_ELSEWHERE);
  }

  /** Whether a session's announcement is among the records that wait. */
  #isAnnounced({ edgeId, session }: SessionPlace): boolean {
    return this.#waiting.some(
      ({ event: { kind } }) =>
        kind.case === 'session' && kind.value.edgeId === edgeId && kind.value.session === session,
    );
  }

  /**
   * The user is another owner's, or was in between: nothing is sent from here any more. The edges announce the sessions
   * again; what they still confirm here is late.
   *
   * @returns the records that were not handled.
   */
  abandon(): readonly LogRecord[] {
    this.#abandoned = true;
    for (const device of this.devices.values()) {
      const { session } = device;
      // What is unconfirmed is the next owner's: a row from here would come late.
      device.window.clear();
      device.messagesOut = device.receiptsOut = 0;
      if (!session) continue;
      this.detach(device, session.link, session.number);
      session.link.sessions.set(session.number, device);
      session.link.disown(session.number);
    }
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const tracked of this.#tracked.values()) this.#owner.letGo(tracked);
    this.#tracked.clear();
    return waiting;
  }

  /** Takes the next record of the user's stream. */
  handle(record: LogRecord): void {
    if (!this.#busy && this.#waiting.length === 0) {
      const waiting = this.#step(record);
      if (waiting) this.#hold(record, waiting);
      return;
    }
    this.#waiting.push(record);
  }

  /**
   * A device confirms events. Resolves, if some have to be looked up, with what became of those; the others are durable with the
   * next barrier.
   *
   * @param refused told of others whose confirmation a store refuses; without it, the log keeps these for later.
   */
  confirm(
    device: Device,
    status: MessageStatus,
    ids: readonly string[],
    refused?: Confirmer['refused'],
  ): Promise<LateResult> | undefined {
    const confirmer: Confirmer = { userId: this.userId, deviceId: device.id, status, refused };
    let late: string[] | undefined;
    const came = { atMs: this.#owner.now(), passedMs: monotonicMs() };
    for (const id of ids) {
      const delivery = device.window.get(id);
      if (delivery) {
        // A receipt is confirmed by ack and a message by its status, not the other way round.
        if ((delivery.tracked.message === undefined) !== (status === MessageStatus.UNSPECIFIED)) continue;
        device.window.delete(id);
        if (device.window.size === 0) this.#owner.unconfirmed.delete(device);
        device.count(delivery, -1);
        device.settling.add(id);
        // After a restart the log may still hand out what the inbox has brought already.
        if (!delivery.tracked.message && !delivery.tracked.record) this.#rememberAck(device, id);
        this.#record(delivery.tracked, device, confirmer, came, delivery);
        continue;
      }
      const tracked = device.settling.has(id) ? this.#tracked.get(id) : undefined;
      const isRead = this.readReceipts && status === MessageStatus.READ;
      if (tracked?.message && isRead && tracked.readAtMs === 0)
        this.#record(tracked, device, confirmer, came, undefined);
      // That the device has it is on its way to the disk. Who tries again what was refused has to know what became of it.
      else if (tracked && !refused) continue;
      else if (late) late.push(id);
      else late = [id];
    }
    this.resume(device);
    return late && this.confirmLate(device.id, status, late);
  }

  /** Confirms events that are not in a device's window: long confirmed, waiting in the inbox, or never sent to this user. */
  async confirmLate(deviceId: string, status: MessageStatus, ids: readonly string[]): Promise<LateResult> {
    const device = this.devices.get(deviceId);
    this.doubt();
    for (const id of ids) {
      device?.settling.add(id);
      if (status === MessageStatus.UNSPECIFIED && device) this.#rememberAck(device, id);
    }
    try {
      return await this.#owner.late.confirm(this, deviceId, status, ids);
    } finally {
      for (const id of ids) device?.settling.delete(id);
      if (device) this.resume(device);
    }
  }

  /** The edge has answered an attach. */
  attached(device: Device, link: EdgeLink, number: number, accepted: boolean): void {
    const { session } = device;
    if (!session || session.link !== link || session.number !== number) return;
    if (!accepted) return this.detach(device, link, number);
    session.ready = true;
    this.resume(device);
  }

  /** A session is gone: what it did not confirm goes to the inbox. */
  detach(device: Device, link: EdgeLink, number: number): void {
    const { session } = device;
    if (!session || session.link !== link || session.number !== number) return;
    link.release(number);
    device.session = undefined;
    device.state = 'offline';
    device.cursor = undefined;
    this.#owner.unconfirmed.delete(device);
    for (const delivery of device.window.values()) {
      if (delivery.row === 'none') this.store(delivery);
      device.count(delivery, -1);
      this.#untrack(delivery.tracked);
    }
    device.window.clear();
    this.#owner.idle(this);
  }

  /** Puts an unconfirmed delivery into its device's inbox. */
  store(delivery: Delivery): void {
    delivery.device.appending.add(delivery.position);
    delivery.row = 'writing';
    this.#owner.append(delivery);
  }

  /** A row has reached the inbox. */
  stored(delivery: Delivery): void {
    const { device } = delivery;
    device.appending.delete(delivery.position);
    device.appends++;
    this.#close(delivery);
    this.resume(device);
    this.#owner.idle(this);
  }

  /** A confirmation is durable. */
  settled(delivery: Delivery): void {
    const { device, tracked } = delivery;
    device.settling.delete(tracked.id);
    this.#untrack(tracked);
    this.#close(delivery);
    this.resume(device);
    this.#owner.idle(this);
  }

  /** Sends an unconfirmed event again. */
  retransmit(delivery: Delivery, nowMs: number): void {
    const { device, tracked } = delivery;
    if (!device.session) return;
    delivery.attempts++;
    delivery.sentAtMs = nowMs;
    device.session.link.push(device.session.number, tracked.payload, this.#followed(delivery, nowMs), 'soon');
  }

  /** Goes on with a drain that waited for room or for its own rows. */
  resume(device: Device): void {
    if (device.state !== 'draining' || device.draining || !device.session?.ready) return;
    if (device.room >= MIN_PAGE) void this.#drain(device);
  }

  #advance(): void {
    while (!this.#busy) {
      const record = this.#waiting.shift();
      if (!record) break;
      const waiting = this.#step(record);
      if (waiting) this.#hold(record, waiting);
    }
    if (this.#waiting.length === 0) this.#owner.idle(this);
  }

  #hold(record: LogRecord, waiting: Promise<void>): void {
    this.#busy = true;
    this.#waitsFor = `the handling of a ${record.event.kind.case}`;
    void waiting
      .catch((error) => this.#owner.retry(record, () => this.#step(record) ?? Promise.resolve(), error))
      .then(() => {
        this.#busy = false;
        this.#advance();
      });
  }

  #step(record: LogRecord): Promise<void> | undefined {
    if (this.#abandoned) return undefined;
    const { kind } = record.event;
    switch (kind.case) {
      case 'message': {
        if (!this.#exists) return this.#refuseMessage(record);
        const { redriven } = record.event;
        const { serverMessageId, copy } = kind.value;
        const earlier = redriven ? undefined : this.#owner.seen(serverMessageId, copy, record.position);
        if (earlier !== undefined) return this.#dropSecond(record, kind.value, earlier);
        if (record.mayRepeat || redriven || kind.value.mayBeSecond) return this.#deliverUnconfirmed(record);
        this.#deliver(record, undefined);
        return undefined;
      }
      case 'receipt':
        // A confirmation that came twice, before and after a crash, has published its receipt twice: one is enough.
        if (
          !record.event.redriven &&
          (this.#owner.seen(kind.value.eventId, false, record.position) !== undefined ||
            this.#owner.contradicts(kind.value, record.position))
        )
          this.#owner.acknowledge(record);
        else this.#deliver(record, undefined);
        return undefined;
      case 'session': {
        const { deviceId } = kind.value;
        const opened = openedBy(kind.value, record.position);
        const open = () =>
          this.#withDevice(deviceId, () => {
            this.#open(opened);
            this.#owner.acknowledge(record);
          });
        return this.#suspended ? this.#lookAgain().then(open) : open();
      }
      case 'close':
        return this.#closeSessions(record, kind.value.deviceId);
      case 'device':
        return this.#withDevice(kind.value.deviceId, () => this.#owner.acknowledge(record));
      case 'confirmation': {
        const confirmed = () => this.#confirmFromLog(record, kind.value);
        void confirmed().catch((error) => {
          this.#owner.awaited.tell(this.userId, kind.value, error);
          return this.#owner.retry(record, confirmed, error);
        });
        return undefined;
      }
      default:
        this.#owner.acknowledge(record);
        return undefined;
    }
  }

  /** What a device has confirmed through another session or a call. @throws whatever a store says that refuses one of them */
  async #confirmFromLog(record: LogRecord, confirmation: ConfirmationEvent): Promise<void> {
    const { deviceId, status, ids } = confirmation;
    const refusals: unknown[] = [];
    const device = this.devices.get(deviceId);
    const refused = (_: string, error: unknown) => void refusals.push(error);
    const late = await (device ? this.confirm(device, status, ids, refused) : this.confirmLate(deviceId, status, ids));
    await this.#owner.barrier();
    if (late && late.refused.length > 0) refusals.push(late.error);
    if (refusals.length > 0) throw refusals[0];
    this.#owner.awaited.tell(this.userId, confirmation, undefined);
    this.#owner.acknowledge(record);
  }

  async #lookAgain(): Promise<void> {
    const user = await this.#owner.find(this.userId);
    this.#suspended = user?.suspended ?? false;
  }

  async #closeSessions(record: LogRecord, deviceId: string): Promise<void> {
    await this.#lookAgain();
    const meant = (id: string) => deviceId === '' || id === deviceId;
    for (const device of this.devices.values()) {
      const { session } = device;
      if (!session || !meant(device.id)) continue;
      this.detach(device, session.link, session.number);
      const [code, reason] = this.#suspended ? CLOSE_SUSPENDED : CLOSE_BY_OPERATOR;
      session.link.closeSession(session.number, code, reason);
    }
    this.#owner.acknowledge(record);
  }

  #withDevice(deviceId: string, then: (device: Device) => void): Promise<void> | undefined {
    this.#exists = true;
    const known = this.devices.get(deviceId);
    if (known) {
      then(known);
      return undefined;
    }
    const first = this.devices.size === 0;
    const device = this.#register(deviceId);
    if (!first) {
      then(device);
      return undefined;
    }
    return this.#claim(device).then(() => then(device));
  }

  #register(deviceId: string): Device {
    let device = this.devices.get(deviceId);
    if (!device) {
      device = new Device(this, deviceId);
      this.devices.set(deviceId, device);
    }
    return device;
  }

  /** Gives what waits for the user's first device to it. */
  async #claim(device: Device): Promise<void> {
    const { inbox, now } = this.#owner;
    for (;;) {
      const rows = await inbox.page(this.userId, UNCLAIMED_DEVICE, undefined, PAGE);
      if (rows.length === 0) return;
      await inbox.append(
        rows.map((row) => ({ ...row, deviceId: device.id })),
        now(),
      );
      await inbox.remove(
        this.userId,
        UNCLAIMED_DEVICE,
        rows.map((row) => row.position),
      );
    }
  }

  /** A message whose user has gone since it was accepted. */
  async #refuseMessage(record: LogRecord): Promise<void> {
    await this.#owner.fail(record.event, record.position, 'not_found');
    this.#owner.acknowledge(record);
  }

  /**
   * Drops a second copy of a message that was accepted once: its sender lost the first answer. The record says first that the
   * earlier one counts, by which every owner after this one tells them apart.
   */
  async #dropSecond(record: LogRecord, message: MessageEvent, earlier: Position): Promise<void> {
    // What is tracked no more has a record, which only an acceptance that knew of no other copy can have made the later one's.
    const first = this.#tracked.get(message.serverMessageId)?.message ?? (message.mayBeSecond ? undefined : message);
    const base = baseRecord(first, earlier);
    if (base) await this.#owner.statuses.accept([base]);
    this.#owner.acknowledge(record);
  }

  /** Delivers what may have been delivered before, to the devices that have not confirmed it. */
  async #deliverUnconfirmed(record: LogRecord): Promise<void> {
    const message = record.event.kind.case === 'message' ? record.event.kind.value : undefined;
    if (!message) return;
    const base = baseRecord(message, record.position);
    if (base) await this.#owner.statuses.accept([base]);
    const [found] = await this.#owner.statuses.get([message.serverMessageId]);
    // Who has it is lost: a device that has is sent it again, and drops it by its id.
    if (found === DAMAGED && base) await this.#owner.statuses.accept([base]);
    const known = found === DAMAGED ? base : found;
    if (known && !message.copy && !record.event.redriven && known.position !== record.position) {
      // A second copy of a message that was accepted once: its sender lost the first answer.
      this.#owner.acknowledge(record);
      return;
    }
    this.#deliver(record, known);
  }

  #deliver(record: LogRecord, known: StatusRecord | undefined): void {
    if (this.#abandoned) return;
    if (!record.mayRepeat) this.#knowsFrom ??= record.position;
    const id = confirmableId(record.event) as string;
    const message = record.event.kind.case === 'message' ? record.event.kind.value : undefined;
    const earlier = this.#tracked.get(id);
    if (earlier?.record && earlier.record.position !== record.position) {
      // The same event twice on the log: one of them is enough.
      this.#owner.acknowledge(record);
      return;
    }
    const tracked = this.#track(id, record, known);
    tracked.record = record;
    tracked.deliveries++;
    for (const device of this.devices.values()) {
      if (message?.copy && device.id === message.senderDeviceId) continue;
      if (!message && device.hasAcked(id)) continue;
      if (known?.devices.includes(deviceMark(message?.copy ?? false, device.id))) continue;
      // The inbox has brought it already: a second delivery would take the first one's place in the window for good.
      if (device.window.has(id) || device.settling.has(id)) continue;
      tracked.open++;
      if (device.state === 'live' && device.hasRoom(message !== undefined))
        this.#transmit(device, tracked, record.position, 'none', true);
      else {
        if (device.state === 'live') device.state = 'draining';
        this.store(newDelivery(tracked, device, record.position, true));
      }
    }
    if (this.devices.size === 0 && !message?.copy) {
      tracked.open++;
      this.store(newDelivery(tracked, new Device(this, UNCLAIMED_DEVICE), record.position, true));
    }
    if (tracked.open === 0) this.#forgetOnLog(tracked);
    else this.#owner.hold(tracked);
    this.#untrack(tracked);
  }

  #transmit(device: Device, tracked: Tracked, position: Position, row: Delivery['row'], counted: boolean): void {
    const session = device.session as NonNullable<Device['session']>;
    const delivery = newDelivery(tracked, device, position, counted);
    delivery.row = row;
    delivery.sentAtMs = monotonicMs();
    tracked.deliveries++;
    device.count(delivery, 1);
    if (device.window.size === 0) this.#owner.unconfirmed.add(device);
    device.window.set(tracked.id, delivery);
    device.cursor = position;
    this.#owner.transmitted(tracked);
    const when = tracked.message ? 'soon' : 'later';
    session.link.push(session.number, tracked.payload, this.#followed(delivery, tracked.receivedAtMs), when);
  }

  /** What the edge's step stands under; empty where the event is not followed. */
  #followed(delivery: Delivery, startedAtMs: number): string {
    const { traceparent } = delivery.tracked;
    if (traceparent === '') return '';
    const span = this.#owner.follow('chat.deliver', delivery, this.#owner.told(startedAtMs));
    span?.end();
    return span?.traceparent ?? traceparent;
  }

  async #drain(device: Device): Promise<void> {
    const { inbox } = this.#owner;
    device.draining = true;
    try {
      while (device.state === 'draining' && device.session?.ready) {
        const { session, room } = device;
        if (room < MIN_PAGE) break;
        const appends = device.appends;
        const rows = await this.#owner.whileUnavailable(() =>
          inbox.page(this.userId, device.id, device.cursor, Math.min(room, PAGE)),
        );
        if (device.session !== session) continue;
        // A row that is still on its way may stand below one that has arrived.
        const readable = !device.hasAppending ? rows : belowAll(rows, device.appending);
        if (readable.length === 0) {
          if (device.hasAppending) break;
          if (rows.length > 0 || device.appends !== appends) continue;
          device.state = 'live';
          this.#caughtUp(device, true);
          if (session.drained !== undefined) this.#owner.onDrained(session.drained);
          session.drained = undefined;
          break;
        }
        const events = readable.map((row) => LogEventWire.decode(row.payload));
        const known = this.#knows(readable) ? undefined : await this.#statusesOf(readable, events);
        if (device.session !== session) continue;
        const confirmed: Position[] = [];
        readable.forEach((row, i) => {
          const event = events[i] as LogEvent;
          const message = event.kind.case === 'message' ? event.kind.value : undefined;
          const record = message && known?.get(message.serverMessageId);
          const id = confirmableId(event) as string;
          device.cursor = row.position;
          const present = device.window.get(id);
          if (present) {
            // Of an event that stands here twice one row is enough.
            if (present.position !== row.position) confirmed.push(row.position);
            return;
          }
          // A receipt may have been published twice; where an earlier copy was here too, it is enough.
          const elsewhere = !message && !event.redriven && this.#owner.seen(id, false, row.position) !== undefined;
          if (elsewhere || (!message && device.hasAcked(id))) {
            confirmed.push(row.position);
            return;
          }
          if (record?.devices.includes(deviceMark(message?.copy ?? false, device.id))) {
            if (!device.settling.has(id)) confirmed.push(row.position);
            return;
          }
          if (device.settling.has(id)) return;
          if (session.drained !== undefined) session.drained++;
          this.#transmit(
            device,
            this.#track(id, { event, payload: row.payload }, record),
            row.position,
            'written',
            false,
          );
        });
        if (confirmed.length > 0) {
          this.#owner.remove(this.userId, device.id, confirmed).catch((error) => this.#owner.drainFailed(error));
        }
        this.#caughtUp(device, false);
      }
    } catch (error) {
      this.#owner.drainFailed(error);
    } finally {
      device.draining = false;
    }
  }

  /** The status records know more than this actor. */
  doubt(): void {
    this.#knowsAll = false;
  }

  /** Whether nothing can be known elsewhere of rows that is not known here; what one device confirmed is news to the others. */
  #knows(rows: readonly InboxRow[]): boolean {
    const [first] = rows;
    if (!this.#knowsAll || this.#knowsFrom === undefined || this.devices.size > 1) return false;
    return first !== undefined && first.position >= this.#knowsFrom;
  }

  async #statusesOf(rows: readonly InboxRow[], events: readonly LogEvent[]): Promise<Map<string, StatusRecord>> {
    const messages = events.map(({ kind }) => (kind.case === 'message' ? kind.value : undefined));
    const ids = messages.flatMap((message) => message?.serverMessageId ?? []);
    // What cannot be read may have been confirmed: the device is sent it again rather than never.
    const refused = new Set<string>();
    const records = await this.#owner.recordsOf(ids, (id, error) => {
      refused.add(id);
      this.#owner.drainFailed(error);
    });
    const known = new Map<string, StatusRecord>();
    const lost = new Set<string>();
    for (const [i, record] of records.entries()) {
      if (record && record !== DAMAGED) known.set(ids[i] as string, record);
      else if (!refused.has(ids[i] as string)) lost.add(ids[i] as string);
    }
    if (lost.size > 0) {
      // Who has these is lost; the rest of their records is in the messages.
      const bases = messages.flatMap((message, i) => {
        const base = lost.has(message?.serverMessageId ?? '') && baseRecord(message, rows[i]?.position ?? '');
        return base || [];
      });
      await this.#owner.whileUnavailable(() => this.#owner.statuses.accept(bases));
    }
    return known;
  }

  /** Tells the session that it is caught up, when everything accepted before it opened has been transmitted. */
  #caughtUp(device: Device, everything: boolean): void {
    const { session } = device;
    if (!session || session.caughtUp) return;
    if (!everything && (device.cursor === undefined || device.cursor < session.openedAt)) return;
    session.caughtUp = true;
    session.link.caughtUp(session.number);
  }

  /** Attaches a session that was opened; one whose edge has no stream to this router yet is asked for when it has. */
  #open(opened: OpenedSession): void {
    const device = this.devices.get(opened.deviceId);
    const link = this.#owner.link(opened.edgeId);
    if (!device || this.#abandoned) return;
    if (link) this.#attach(device, link, opened);
    else this.#want(opened);
  }

  #attach(device: Device, link: EdgeLink, opened: OpenedSession): void {
    const { session: number, position } = opened;
    if (this.#suspended) {
      link.closeSession(number, ...CLOSE_SUSPENDED);
      return;
    }
    const current = device.session;
    if (current && current.link === link && current.number === number) return;
    const present = current && { edgeId: current.link.edgeId, session: current.number, order: current.order };
    const order = orderBeside(opened, present, device.highestOrder);
    if (order === undefined) {
      link.closeSession(number, ...CLOSE_REPLACED);
      return;
    }
    if (current) {
      this.detach(device, current.link, current.number);
      current.link.closeSession(current.number, ...CLOSE_REPLACED);
    }
    device.highestOrder = Math.max(device.highestOrder, order);
    device.session = {
      link,
      number,
      attachedAtMs: this.#owner.now(),
      ready: false,
      order,
      openedAt: position,
      caughtUp: false,
      drained: 0,
    };
    device.state = 'draining';
    device.cursor = undefined;
    link.attach(number, device, order);
  }

  /** Writes a confirmation of a tracked event down, which came at `atMs`, or `passedMs` of the monotonic clock; `delivery` settles with it. */
  #record(
    tracked: Tracked,
    device: Device,
    confirmer: Confirmer,
    { atMs, passedMs }: { atMs: number; passedMs: number },
    delivery: Delivery | undefined,
  ): void {
    const { message, record } = tracked;
    const { status } = confirmer;
    if (!message) {
      // While other devices still lack the receipt, this one's ack lives in the log's acknowledgement or the inbox.
      this.#owner.confirmed({ confirmer, update: undefined, receipt: undefined, delivery });
      return;
    }
    const mark = deviceMark(message.copy, device.id);
    if (message.copy) {
      this.#owner.confirmed({
        confirmer,
        update: { ...NOTHING_NEW, serverMessageId: tracked.id, deviceId: mark },
        receipt: undefined,
        delivery,
      });
      return;
    }
    const read = status === MessageStatus.READ && this.readReceipts;
    const news = read ? tracked.readAtMs === 0 : tracked.deliveredAtMs === 0 && tracked.readAtMs === 0;
    if (tracked.deliveredAtMs === 0) {
      tracked.deliveredAtMs = atMs;
      this.#owner.onDelivered(Number(message.acceptedAtMs), atMs);
    }
    if (read && tracked.readAtMs === 0) tracked.readAtMs = atMs;
    const span =
      tracked.traceparent === '' || !delivery ? undefined : this.#owner.follow('chat.confirm', delivery, atMs);
    const receipt =
      news && !tracked.redriven
        ? receiptOf(message, read ? MessageStatus.READ : MessageStatus.DELIVERED, atMs, '', span?.traceparent)
        : undefined;
    this.#owner.confirmed({
      confirmer,
      update: {
        serverMessageId: tracked.id,
        base: record && baseOf(message, record.position),
        deviceId: mark,
        deliveredAtMs: tracked.deliveredAtMs,
        readAtMs: tracked.readAtMs,
        failedAtMs: 0,
        code: '',
        takenAtMs: delivery ? this.#owner.told(tracked.receivedAtMs, atMs, passedMs) : 0,
        transmittedAtMs: delivery ? this.#owner.told(delivery.sentAtMs, atMs, passedMs) : 0,
      },
      receipt,
      delivery,
    });
    if (span) {
      const step = span;
      const ended = { 'chatmesh.status': read ? 'read' : 'delivered' };
      void this.#owner.barrier().then(() => step.end(ended));
    }
  }

  /** A device's confirmation that came late: the others' are no news where this one was. */
  confirmedLate(id: string, atMs: number, read: boolean): void {
    const tracked = this.#tracked.get(id);
    if (!tracked) return;
    tracked.deliveredAtMs ||= atMs;
    if (read) tracked.readAtMs ||= atMs;
  }

  #rememberAck(device: Device, id: string): void {
    device.rememberAck(id);
    this.#owner.forgetAcksLater(device);
  }

  #track(
    id: string,
    { event, payload }: Pick<LogRecord, 'event' | 'payload'>,
    known: StatusRecord | undefined,
  ): Tracked {
    let tracked = this.#tracked.get(id);
    if (!tracked) {
      const { kind, redriven } = event;
      tracked = {
        recipient: this,
        id,
        payload,
        message: kind.case === 'message' ? kind.value : undefined,
        redriven,
        traceparent: traceparentOf(event),
        record: undefined,
        receivedAtMs: monotonicMs(),
        open: 0,
        deliveries: 0,
        deliveredAtMs: known?.deliveredAtMs ?? 0,
        readAtMs: known?.readAtMs ?? 0,
      };
      this.#tracked.set(id, tracked);
    }
    return tracked;
  }

  #untrack(tracked: Tracked): void {
    if (--tracked.deliveries <= 0) this.#tracked.delete(tracked.id);
  }

  /** A delivery needs the log no more. */
  #close(delivery: Delivery): void {
    if (!delivery.counted) return;
    delivery.counted = false;
    const { tracked } = delivery;
    if (--tracked.open > 0) return;
    this.#owner.letGo(tracked);
    this.#forgetOnLog(tracked);
  }

  #forgetOnLog(tracked: Tracked): void {
    if (!tracked.record) return;
    this.#owner.acknowledge(tracked.record);
    tracked.record = undefined;
  }
}

function openedBy({ edgeId, session, deviceId, order, isNew }: SessionEvent, position: Position): OpenedSession {
  return { edgeId, session, deviceId, order: Number(order), isNew, position };
}

/** In a function of its own: what a closure needs is set aside whenever the function around it is called. */
function baseOf(message: MessageEvent, position: Position): () => StatusRecord {
  return () => baseRecord(message, position) as StatusRecord;
}

function newDelivery(tracked: Tracked, device: Device, position: Position, counted: boolean): Delivery {
  return { tracked, device, position, counted, row: 'none', confirmedEarly: false, sentAtMs: 0, attempts: 0 };
}

function belowAll(rows: InboxRow[], positions: Iterable<Position>): InboxRow[] {
  let lowest: Position | undefined;
  for (const position of positions) if (lowest === undefined || position < lowest) lowest = position;
  return rows.filter((row) => lowest === undefined || row.position < lowest);
}
