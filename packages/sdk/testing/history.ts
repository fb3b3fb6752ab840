import type { Trace } from '../connection.js';
import type { ClientFrame, ServerFrame } from '../frames.js';
import { Check, type CheckOptions } from './check.js';
import { Line } from './line.js';
import { type ConnectionRecord, type DeviceRecord, Records } from './records.js';
import type { Report } from './report.js';

/**
 * What clients saw of a run of the mesh, and which promises of the wire contract it breaks. Takes every frame of every
 * device in the order in which the process that records saw them; a million messages take about 1.5 GB.
 *
 * ```ts
 * const history = new History();
 * const chat = await connect({ url, token, onTrace: history.device(userId, deviceId).tap() });
 * // ... everything that was sent has arrived ...
 * const report = history.check();
 * if (!report.ok) throw new Error(formatReport(report));
 * ```
 */
export class History {
  readonly #records: Records;

  /** @param nowMs a clock that never goes back, in milliseconds */
  constructor(nowMs: () => number = () => performance.now()) {
    this.#records = new Records(nowMs);
  }

  /**
   * Declares a registered device: from now on it must get everything that is sent to its user or by its user's other
   * devices, and hear of everything that its user sends. A user's first device must get what was sent before, too.
   */
  device(userId: string, deviceId: string): DeviceRecorder {
    const user = this.#records.user(userId);
    let device = user.devices.find((known) => known.deviceId === deviceId);
    if (device === undefined) {
      const sinceTick = user.devices.length === 0 ? 0 : this.#records.tick();
      device = { user, deviceId, sinceTick, firsts: [], unacked: new Map() };
      user.devices.push(device);
    }
    return new DeviceRecorder(this.#records, device);
  }

  /**
   * Call it right before the server of every connection is killed: they are dead from then on, however late the clients
   * notice. What they sent in the last second before may not have arrived.
   */
  killing(): void {
    const { connections } = this.#records;
    this.#records.killed = { atMs: this.#records.nowMs(), connections };
  }

  /**
   * For so long from now on, faults hold up what clients confirm, or lose it with a server: it takes effect within a second after their
   * end. Without a call, faults are expected to hold up nothing.
   */
  disturbed(forMs: number): void {
    const fromMs = this.#records.nowMs();
    this.#records.disturbances.push({ fromMs, untilMs: fromMs + forMs });
  }

  /** What was broken so far. Call it when nothing is expected to arrive any more; it may be called again later. */
  check(options: CheckOptions = {}): Report {
    return new Check(this.#records, options).report();
  }
}

/** Records one device. */
export class DeviceRecorder {
  constructor(
    private readonly records: Records,
    private readonly device: DeviceRecord,
  ) {}

  /** Call it before a connection is opened: what is accepted earlier is that connection's backlog. */
  connect(): Line {
    this.records.connections += 1;
    const connection: ConnectionRecord = {
      device: this.device,
      number: this.records.connections,
      connectingTick: this.records.tick(),
      caughtUpTick: undefined,
      lostAtMs: undefined,
      lastTick: 0,
      lastTimestamp: '',
    };
    return new Line(this.records, connection);
  }

  /** For `connect`'s `onTrace`: records a client's frames over all its connections. */
  tap(): (entry: Trace) => void {
    let line: Line | undefined;
    return (entry) => {
      if (entry.kind === 'connecting') line = this.connect();
      else if (line === undefined) return;
      else if (entry.kind === 'in') recordServerFrame(line, entry.frame);
      else if (entry.kind === 'out') recordClientFrame(line, entry.frame);
      else line.closed(entry.byClient && entry.code !== 1006);
    };
  }
}

/** Records one frame that a client is about to send. */
export function recordClientFrame(line: Line, frame: ClientFrame): void {
  if ('client_message_id' in frame) line.sending(frame.client_message_id, [frame.receiver_id], frame.content);
  else if ('ack' in frame) line.acking(frame.ack);
  else if ('server_message_ids' in frame) line.confirming(frame.status, frame.server_message_ids);
}

/** Records one frame that a client received. */
export function recordServerFrame(line: Line, frame: ServerFrame): void {
  if ('status' in frame) {
    const { server_message_id, client_message_id, timestamp } = frame;
    if (frame.status === 'sent') {
      line.accepted(client_message_id, server_message_id, timestamp, frame.deduplicated === true);
    } else line.receipt(frame.status, frame.event_id, server_message_id, client_message_id);
  } else if ('sender_id' in frame) {
    line.delivered(frame.server_message_id, frame.sender_id, frame.content ?? '', frame.timestamp);
  } else if ('caught_up' in frame) line.caughtUp();
  else if ('error' in frame && frame.client_message_id !== undefined) {
    line.refused(frame.client_message_id, frame.error.code);
  }
}
