import { parseFrame } from '@chatmesh/edge/domain/frames';
import { acceptedJson, addEvent, CAUGHT_UP_JSON, errorJson, goingAwayJson } from '@chatmesh/edge/domain/json';
import { TextFrames } from '@chatmesh/edge/domain/text-frames';
import type { ClientSink, Session } from '@chatmesh/edge/sessions/session';
import type { ClientFrame, ServerFrame } from '@chatmesh/sdk';
import {
  type DeviceRecorder,
  type History,
  type Line,
  recordClientFrame,
  recordServerFrame,
} from '@chatmesh/sdk/testing';
import { type EdgeNode, type SimulatedMesh, uuidOf } from './mesh.js';
import { type Host, Way } from './world.js';

const RECONNECT_MS = 200;
const RESEND_MS = 200;
/** The longest between a message and its confirmation. */
const CONFIRM_MS = 40;
const TOKEN_MS = 1e12;

/** What a device does with messages that come. */
export type Manner = 'delivered' | 'read' | 'silent';

interface Outgoing {
  readonly clientMessageId: string;
  readonly receiverId: string;
  readonly content: string;
}

/** A client of the mesh, as an SDK is: it sends what has no answer again, in order, and confirms whatever comes. */
export class SimulatedDevice {
  readonly userId: string;
  readonly deviceId: string;
  readonly host: Host;
  manner: Manner = 'delivered';
  readonly #mesh: SimulatedMesh;
  readonly #recorder: DeviceRecorder;
  #wanted = false;
  #connection: Connection | undefined;
  #connecting = false;
  /** What has no answer yet, in order. */
  readonly #outbox = new Map<string, Outgoing>();
  /** Messages and receipts that it has and has not confirmed for good. */
  readonly #messages = new Set<string>();
  readonly #receipts = new Set<string>();
  #due = false;
  #sent = 0;

  constructor(mesh: SimulatedMesh, history: History, userId: string, deviceId: string) {
    this.#mesh = mesh;
    this.userId = userId;
    this.deviceId = deviceId;
    this.host = mesh.world.host(`device ${deviceId.slice(0, 8)}`);
    this.#recorder = history.device(userId, deviceId);
  }

  /** Whether everything it has sent has an answer. */
  get settled(): boolean {
    return this.#outbox.size === 0;
  }

  /** Whether it is connected and was told that it has everything that had waited. */
  get caughtUp(): boolean {
    return this.#connection?.caughtUpSaid ?? false;
  }

  goOnline(): void {
    this.#wanted = true;
    this.#connect(0);
  }

  /** Closes its connection properly, or loses it. */
  goOffline(properly: boolean): void {
    this.#wanted = false;
    this.#connection?.leave(properly);
  }

  send(receiverId: string): void {
    const clientMessageId = uuidOf(this.#mesh.world);
    const outgoing = { clientMessageId, receiverId, content: `${++this.#sent} of ${this.deviceId}` };
    this.#outbox.set(clientMessageId, outgoing);
    this.#transmit(outgoing);
  }

  /** Confirms what it has kept to itself. */
  confirmAll(): void {
    this.manner = this.manner === 'silent' ? 'delivered' : this.manner;
    this.#confirmLater();
  }

  #connect(afterMs: number): void {
    if (this.#connecting || this.#connection || !this.#wanted) return;
    this.#connecting = true;
    this.host.after(afterMs, () => {
      this.#connecting = false;
      if (!this.#wanted || this.#connection) return;
      const edges = this.#mesh.edges.filter(({ host }) => host.state === 'running');
      if (edges.length === 0) {
        this.#connect(RECONNECT_MS);
        return;
      }
      const line = this.#recorder.connect();
      this.#connection = new Connection(this.#mesh, this, this.#mesh.world.random.among(edges), line);
    });
  }

  // From the connection.

  opened(): void {
    for (const outgoing of this.#outbox.values()) this.#transmit(outgoing);
    this.#confirmLater();
  }

  closed(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#connection = undefined;
    this.#connect(RECONNECT_MS * this.#mesh.world.random.fraction());
  }

  received(frame: ServerFrame): void {
    if ('status' in frame) {
      if (frame.status === 'sent') this.#outbox.delete(frame.client_message_id);
      else {
        this.#receipts.add(frame.event_id);
        this.#confirmLater();
      }
    } else if ('sender_id' in frame) {
      this.#messages.add(frame.server_message_id);
      this.#confirmLater();
    } else if ('error' in frame && frame.client_message_id !== undefined) {
      const outgoing = this.#outbox.get(frame.client_message_id);
      if (!outgoing) return;
      const { code } = frame.error;
      if (code !== 'unavailable' && code !== 'resource_exhausted') this.#outbox.delete(outgoing.clientMessageId);
      else this.host.after(RESEND_MS, () => this.#transmitAgain(outgoing));
    }
  }

  #transmit({ clientMessageId, receiverId, content }: Outgoing): void {
    this.#connection?.send({
      sender_id: this.userId,
      receiver_id: receiverId,
      content,
      timestamp: '2026-01-01T00:00:00Z',
      client_message_id: clientMessageId,
    });
  }

  #transmitAgain(outgoing: Outgoing): void {
    if (this.#outbox.has(outgoing.clientMessageId)) this.#transmit(outgoing);
  }

  #confirmLater(): void {
    if (this.#due || this.manner === 'silent') return;
    this.#due = true;
    this.host.after(this.#mesh.world.random.fraction() * CONFIRM_MS, () => {
      this.#due = false;
      if (this.manner === 'silent' || !this.#connection?.open) return;
      const messages = [...this.#messages].slice(0, 256);
      const receipts = [...this.#receipts].slice(0, 256);
      for (const id of messages) this.#messages.delete(id);
      for (const id of receipts) this.#receipts.delete(id);
      if (messages.length > 0) this.#connection.send({ status: this.manner, server_message_ids: messages });
      if (receipts.length > 0) this.#connection.send({ ack: receipts });
      if (this.#messages.size + this.#receipts.size > 0) this.#confirmLater();
    });
  }
}

/** One WebSocket between a device and an edge. */
class Connection implements ClientSink {
  caughtUpSaid = false;
  readonly #mesh: SimulatedMesh;
  readonly #device: SimulatedDevice;
  readonly #edge: Host;
  readonly #line: Line;
  #session: Session | undefined;
  readonly #table: EdgeNode['table'];
  /** As the client knows: from the first frame that can go, to the end. */
  #state: 'opening' | 'open' | 'leaving' | 'gone' = 'opening';
  readonly #wayToClient: Way;
  readonly #wayToEdge: Way;
  #buffered = 0;
  #received = 0;
  #paused = false;
  /** Frames that have come and were not read yet. */
  readonly #incoming: string[] = [];

  constructor(mesh: SimulatedMesh, device: SimulatedDevice, edge: EdgeNode, line: Line) {
    this.#mesh = mesh;
    this.#device = device;
    this.#edge = edge.host;
    this.#line = line;
    this.#table = edge.table;
    this.#wayToClient = new Way(mesh.world, device.host);
    this.#wayToEdge = new Way(mesh.world, edge.host);
    this.#toEdge(() => this.#admit());
    // The connection breaks when the edge dies, and is given up where nothing comes.
    const watch = () => {
      if (this.#state === 'gone') return;
      if (this.#edge.state === 'dead') this.#gone(false);
      else mesh.world.after(20, watch);
    };
    mesh.world.after(20, watch);
  }

  #admit(): void {
    if (this.#state === 'gone') return;
    const { userId, deviceId } = this.#device;
    this.#mesh.world.tell(this.#edge.name, () => `opens a session of ${deviceId}`);
    this.#session = this.#table.open({ userId, deviceId, expiresAtMs: Date.now() + TOKEN_MS }, this);
    this.#toClient(() => {
      if (this.#state !== 'opening') return;
      this.#state = 'open';
      this.#device.opened();
    });
  }

  get open(): boolean {
    return this.#state === 'open';
  }

  // The client's side.

  send(frame: ClientFrame): void {
    if (this.#state !== 'open') return;
    recordClientFrame(this.#line, frame);
    const text = JSON.stringify(frame);
    this.#mesh.world.tell(this.#device.host.name, () => `-> ${text}`);
    this.#toEdge(() => {
      this.#incoming.push(text);
      this.#read();
    });
  }

  leave(properly: boolean): void {
    if (this.#state === 'gone' || this.#state === 'leaving') return;
    if (!properly) {
      this.#gone(false);
      this.#toEdge(() => this.#ended());
      return;
    }
    this.#state = 'leaving';
    this.#toEdge(() => {
      this.#ended();
      this.#toClient(() => this.#gone(true));
    });
  }

  #gone(clean: boolean): void {
    if (this.#state === 'gone') return;
    this.#state = 'gone';
    this.#mesh.world.tell(this.#device.host.name, () => (clean ? 'closed' : 'lost'));
    this.#line.closed(clean);
    this.#device.closed(this);
  }

  #got(text: string): void {
    this.#buffered -= text.length;
    this.#edge.after(0, () => this.#session && !this.#session.closed && this.#table.taken(this.#session));
    if (this.#state === 'gone') return;
    const frame = JSON.parse(text) as ServerFrame;
    if ('heartbeat' in frame) return;
    this.#mesh.world.tell(this.#device.host.name, () => `<- ${text}`);
    if ('caught_up' in frame) this.caughtUpSaid = true;
    recordServerFrame(this.#line, frame);
    this.#device.received(frame);
  }

  // The edge's side.

  #read(): void {
    while (!this.#paused && this.#session && !this.#session.closed) {
      const text = this.#incoming.shift();
      if (text === undefined) return;
      this.#received += text.length;
      this.#table.heard(this.#session);
      this.#table.act(this.#session, parseFrame(text));
    }
  }

  #ended(): void {
    if (this.#session) this.#table.ended(this.#session);
  }

  accepted(...args: Parameters<ClientSink['accepted']>): void {
    this.#say(acceptedJson(...args));
  }

  event(event: Parameters<ClientSink['event']>[0]): void {
    const frames = new TextFrames();
    addEvent(frames, event, this.#device.deviceId);
    for (const text of textsOf(frames.finish())) this.#say(text);
  }

  error(error: Parameters<ClientSink['error']>[0], clientMessageId: string): void {
    this.#say(errorJson(error.kind, error.message, clientMessageId, error.retryAfterMs ?? 0));
  }

  caughtUp(): void {
    this.#say(CAUGHT_UP_JSON);
  }

  goingAway(reconnectAfterMs: number): void {
    this.#say(goingAwayJson(reconnectAfterMs));
  }

  ping(): void {
    // A client that is there answers.
    this.#toClient(() => {
      if (this.#state !== 'gone') this.#toEdge(() => this.#session && this.#table.heard(this.#session));
    });
  }

  close(_code: number, _reason: string): void {
    this.#toClient(() => this.#gone(false));
  }

  pause(paused: boolean): void {
    this.#paused = paused;
    if (!paused) this.#edge.after(0, () => this.#read());
  }

  get bufferedBytes(): number {
    return this.#buffered;
  }

  get receivedBytes(): number {
    return this.#received;
  }

  #say(text: string): void {
    this.#buffered += text.length;
    this.#toClient(() => this.#got(text));
  }

  #toClient(then: () => void): void {
    this.#wayToClient.send(this.#mesh.network.arrivalMs(this.#edge, this.#device.host), then);
  }

  #toEdge(then: () => void): void {
    this.#wayToEdge.send(this.#mesh.network.arrivalMs(this.#edge, this.#device.host), then);
  }
}

/** The texts of a server's WebSocket frames: RFC 6455, section 5.2. */
function textsOf(bytes: Buffer): string[] {
  const texts: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    let length = (bytes[at + 1] as number) & 0x7f;
    at += 2;
    if (length === 126) {
      length = bytes.readUInt16BE(at);
      at += 2;
    } else if (length === 127) {
      length = Number(bytes.readBigUInt64BE(at));
      at += 8;
    }
    texts.push(bytes.toString('utf8', at, at + length));
    at += length;
  }
  return texts;
}
