import { History, type Line, type Report } from '@chatmesh/sdk/testing';

/** What a mesh that breaks a promise does, once. */
export type Sabotage =
  | 'lose'
  | 'repeat'
  | 'double'
  | 'reorder'
  | 'corrupt'
  | 'turn back time'
  | 'forget receipts'
  | 'repeat receipts'
  | 'misdeliver';

type Down =
  | { kind: 'sent'; clientId: string; serverId: string; timestamp: string; repeat: boolean }
  | { kind: 'message'; serverId: string; sender: string; receiver: string; content: string; timestamp: string }
  | { kind: 'receipt'; status: 'delivered' | 'read'; eventId: string; serverId: string; clientId: string }
  | { kind: 'caught_up' };
type Up = { kind: 'delivered' | 'read' | 'ack'; ids: string[] };
type Waiting = Extract<Down, { kind: 'message' | 'receipt' }>;

interface Accepted {
  serverId: string;
  clientId: string;
  timestamp: string;
  sender: string;
  receiver: string;
  status: 'sent' | 'delivered' | 'read';
}

interface Device {
  user: string;
  id: string;
  recorder: ReturnType<History['device']>;
  line: Line | undefined;
  /** Frames on the way; an unclean end loses them. */
  down: Down[];
  up: Up[];
  /** Unconfirmed, in order; those in `transmitted` went out on this connection. */
  inbox: Waiting[];
  transmitted: Set<Waiting>;
  /** How much was accepted over this connection. */
  acceptedHere: number;
  unanswered: Map<string, { to: string; content: string }>;
  unconfirmed: string[];
  unread: string[];
  unacked: string[];
}

/**
 * A mesh of a few lines that keeps every promise, with clients, lossy connections and a clock that the test turns: it
 * writes the histories that the checker must find clean, and, sabotaged, those that it must not.
 */
export class World {
  nowMs = 0;
  readonly history = new History(() => this.nowMs);
  readonly devices: Device[] = [];
  sabotage: Sabotage | undefined;
  readonly #accepted = new Map<string, Accepted>();
  #ids = 0;

  constructor(devicesPerUser: readonly number[]) {
    for (const [u, count] of devicesPerUser.entries()) {
      for (let d = 0; d < count; d++) {
        const [user, id] = [`user-${u}`, `device-${u}-${d}`];
        this.devices.push({
          user,
          id,
          recorder: this.history.device(user, id),
          line: undefined,
          down: [],
          up: [],
          inbox: [],
          transmitted: new Set(),
          acceptedHere: 0,
          unanswered: new Map(),
          unconfirmed: [],
          unread: [],
          unacked: [],
        });
      }
    }
  }

  connect(device: Device): void {
    if (device.line !== undefined) return;
    device.line = device.recorder.connect();
    device.transmitted.clear();
    device.acceptedHere = 0;
    this.#transmit(device);
    device.down.push({ kind: 'caught_up' });
    for (const [clientId, { to, content }] of device.unanswered) this.#submit(device, clientId, to, content);
  }

  disconnect(device: Device, clean: boolean): void {
    if (device.line === undefined) return;
    if (clean) this.#serve(device);
    device.line.closed(clean);
    device.line = undefined;
    device.down = [];
    device.up = [];
  }

  send(device: Device, to: string): void {
    if (device.line === undefined) return;
    const clientId = `client-${this.#ids++}`;
    // Few contents, so that they are no ids.
    const content = `text ${this.#ids % 3}`;
    device.unanswered.set(clientId, { to, content });
    this.#submit(device, clientId, to, content);
  }

  /** The client sends a message again whose answer it has. */
  sendAgain(device: Device): void {
    const known = [...this.#accepted.values()].find(({ sender }) => sender === device.user);
    if (device.line === undefined || known === undefined) return;
    this.#submit(device, known.clientId, known.receiver, this.#contents.get(known.serverId) ?? '');
  }

  /** The server sends something again that is not confirmed. */
  retransmit(device: Device): void {
    const waiting = device.inbox.find((entry) => device.transmitted.has(entry));
    if (device.line !== undefined && waiting !== undefined) device.down.push(waiting);
  }

  /** The client reads what arrived, up to a number of frames. */
  read(device: Device, frames: number): void {
    for (const frame of device.down.splice(0, device.line === undefined ? 0 : frames)) this.#show(device, frame);
  }

  confirm(device: Device, status: 'delivered' | 'read' | 'ack'): void {
    const { line } = device;
    if (line === undefined) return;
    const waiting = { delivered: 'unconfirmed', read: 'unread', ack: 'unacked' } as const;
    const ids = device[waiting[status]].splice(0, 256);
    if (ids.length === 0) return;
    if (status === 'ack') line.acking(ids);
    else line.confirming(status, ids);
    device.up.push({ kind: status, ids });
  }

  /** The server reads what arrived. */
  serve(device: Device): void {
    if (device.line !== undefined) this.#serve(device);
  }

  /** Everybody comes online and everything arrives. */
  settle(): Report {
    for (let round = 0; round < 6; round++) {
      for (const device of this.devices) {
        this.connect(device);
        this.read(device, Number.POSITIVE_INFINITY);
        for (const status of ['delivered', 'read', 'ack'] as const) this.confirm(device, status);
        this.#serve(device);
      }
      this.nowMs += 2000;
    }
    return this.history.check();
  }

  readonly #contents = new Map<string, string>();

  #submit(device: Device, clientId: string, to: string, content: string): void {
    device.line?.sending(clientId, [to], content);
    const known = this.#accepted.get(clientId);
    if (known !== undefined) {
      device.down.push({ ...known, kind: 'sent', clientId, repeat: true });
      return;
    }
    const serverId = `server-${this.#ids++}`;
    const wrongTime = device.acceptedHere > 0 && this.#breaks('turn back time');
    device.acceptedHere += 1;
    const timestamp = new Date(wrongTime ? 0 : 1_000_000 + this.nowMs).toISOString();
    const accepted: Accepted = { serverId, clientId, timestamp, sender: device.user, receiver: to, status: 'sent' };
    this.#accepted.set(clientId, accepted);
    this.#contents.set(serverId, content);
    device.down.push({ ...accepted, kind: 'sent', repeat: false });
    const message: Waiting = { kind: 'message', serverId, sender: device.user, receiver: to, content, timestamp };
    for (const target of this.devices) {
      if (target.user !== to && (target.user !== device.user || target === device)) continue;
      if (!this.#breaks('lose')) this.#enqueue(target, message);
      if (this.#breaks('double')) this.#enqueue(target, { ...message, serverId: `server-${this.#ids++}` });
    }
    const stranger = this.devices.find(({ user }) => user !== to && user !== device.user);
    if (stranger !== undefined && this.#breaks('misdeliver')) this.#enqueue(stranger, message);
  }

  #enqueue(target: Device, entry: Waiting): void {
    const last = target.inbox.at(-1);
    const conversation = (one: Waiting | undefined) => one?.kind === 'message' && `${one.sender}/${one.receiver}`;
    const swaps = entry.kind === 'message' && conversation(last) === conversation(entry);
    if (last && swaps && !target.transmitted.has(last) && this.#breaks('reorder')) target.inbox.splice(-1, 0, entry);
    else target.inbox.push(entry.kind === 'message' && this.#breaks('corrupt') ? { ...entry, content: '?' } : entry);
  }

  #transmit(device: Device): void {
    for (const entry of device.inbox) {
      if (device.transmitted.has(entry)) continue;
      device.transmitted.add(entry);
      device.down.push(entry);
    }
  }

  #serve(device: Device): void {
    for (const { kind, ids } of device.up.splice(0)) {
      const confirmed = device.inbox.filter(
        (entry) => ids.includes(idOf(entry)) && (entry.kind === 'receipt') === (kind === 'ack'),
      );
      device.inbox = device.inbox.filter((entry) => !confirmed.includes(entry));
      if (kind !== 'ack') for (const id of ids) this.#advance(device, id, kind);
      const again = confirmed[0];
      if (again !== undefined && this.#breaks(kind === 'ack' ? 'repeat receipts' : 'repeat')) {
        this.nowMs += 1500;
        device.down.push(again);
      }
    }
    this.#transmit(device);
  }

  #advance(device: Device, serverId: string, status: 'delivered' | 'read'): void {
    const accepted = [...this.#accepted.values()].find((known) => known.serverId === serverId);
    if (accepted === undefined || accepted.receiver !== device.user) return;
    if (accepted.status === 'read' || accepted.status === status) return;
    accepted.status = status;
    if (status === 'read' && this.#breaks('forget receipts')) return;
    const eventId = `event-${serverId}-${status}`;
    for (const target of this.devices) {
      if (target.user !== accepted.sender) continue;
      this.#enqueue(target, { kind: 'receipt', status, eventId, serverId, clientId: accepted.clientId });
    }
  }

  #show(device: Device, frame: Down): void {
    const line = device.line as Line;
    if (frame.kind === 'sent') {
      line.accepted(frame.clientId, frame.serverId, frame.timestamp, frame.repeat);
      device.unanswered.delete(frame.clientId);
    } else if (frame.kind === 'message') {
      line.delivered(frame.serverId, frame.sender, frame.content, frame.timestamp);
      device.unconfirmed.push(frame.serverId);
      if (frame.sender !== device.user) device.unread.push(frame.serverId);
    } else if (frame.kind === 'receipt') {
      line.receipt(frame.status, frame.eventId, frame.serverId, frame.clientId);
      device.unacked.push(frame.eventId);
    } else line.caughtUp();
  }

  #breaks(what: Sabotage): boolean {
    if (this.sabotage !== what) return false;
    this.sabotage = undefined;
    return true;
  }
}

function idOf(entry: Waiting): string {
  return entry.kind === 'message' ? entry.serverId : entry.eventId;
}
