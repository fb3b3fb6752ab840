import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Broken, Route } from '../jobs.js';
import { longTexts, texts } from '../texts.js';
import { Device, type Run, type ServerFrame } from './device.js';
import { Flow, markOfId, markOfText } from './flow.js';
import { Meter } from './meter.js';

/** How many connections are being opened at a time. */
const CONNECTING = 32;
/** How long traffic may stand still before what is missing counts as lost, milliseconds. */
const STANDSTILL_MS = 15_000;
/** Length of a message's text in code points. */
const TEXT_LENGTH = 100;
const LONG_TEXT_LENGTH = 1_000;
/** An open loop with more than this on its way is not keeping up. */
const MAX_OUTSTANDING = 50_000;

export interface TrafficOptions {
  url: string;
  idsPerReceipt: number;
  /** False while the recipients are offline: then `sent` alone makes room for the next send. */
  online: boolean;
  longTexts?: boolean;
}

/** Devices that write to each other over flows, with every promise checked on the way. */
export class Traffic implements Run {
  readonly meter = new Meter();
  readonly idsPerReceipt: number;
  /** Rejects when the run cannot go on; never resolves. */
  readonly failed: Promise<never>;
  readonly #options: TrafficOptions;
  readonly #run = randomBytes(4).toString('hex');
  readonly #flows: Flow[];
  readonly #senders = new Map<string, Device>();
  readonly #recipients = new Map<string, Device>();
  /** Sends per flow without `sent` or arrival; 0 outside a closed loop. */
  #window = 0;
  /** Messages per flow at which a closed loop ends. */
  #limit = Number.POSITIVE_INFINITY;
  #dirty: Device[] = [];
  #fail!: (error: Error) => void;

  constructor(routes: Route[], options: TrafficOptions) {
    this.#options = options;
    this.idsPerReceipt = options.idsPerReceipt;
    this.failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.failed.catch(() => {});
    const text = options.longTexts ? longTexts(routes.length) : texts(routes.length);
    const length = options.longTexts ? LONG_TEXT_LENGTH : TEXT_LENGTH;
    this.#flows = routes.map((route, index) => new Flow(index, this.#run, route, text[index] as string, length));
    for (const { sender } of routes) this.#senders.set(sender.token, new Device(sender, 0, this));
    for (const { recipient } of routes) {
      for (const [slot, account] of recipient.entries()) {
        const device = this.#senders.get(account.token) ?? new Device(account, slot, this);
        this.#recipients.set(account.token, device);
      }
    }
  }

  /** Connects all senders; with `online`, all recipients before them. */
  async connect(): Promise<void> {
    const devices = new Set(this.#options.online ? this.#recipients.values() : []);
    for (const sender of this.#senders.values()) devices.add(sender);
    await this.#connectAll([...devices]);
  }

  /** Connects the recipients who stayed offline. */
  async connectRecipients(): Promise<void> {
    await this.#connectAll([...this.#recipients.values()]);
  }

  /** Keeps `window` sends per flow on their way, up to `limit` messages per flow in all. */
  startClosedLoop(window: number, limit = Number.POSITIVE_INFINITY): void {
    this.#window = window;
    this.#limit = limit;
    for (const flow of this.#flows) this.#pump(flow);
  }

  /** Sends at a fixed rate over all flows in turn, whatever comes back; returns the function that ends it. */
  startOpenLoop(perSecond: number): () => void {
    const begin = performance.now();
    let sent = 0;
    const timer = setInterval(() => {
      const due = ((performance.now() - begin) * perSecond) / 1000;
      for (; sent < due; sent++) this.#send(this.#flows[sent % this.#flows.length] as Flow);
      if (sent - this.#sum((flow) => flow.accepted.seen) > MAX_OUTSTANDING) {
        this.fail(new Error(`${MAX_OUTSTANDING} messages wait for their acceptance at ${perSecond} a second`));
      }
    }, 1);
    return () => clearInterval(timer);
  }

  /** Ends a closed loop; what is on its way stays so. */
  stop(): void {
    this.#window = 0;
  }

  /** Waits until everything that was sent is accepted and what is expected has come; says what is missing or wrong. */
  async settle(expected: { deliveries: boolean; receipts: boolean }): Promise<Broken> {
    let least = Number.POSITIVE_INFINITY;
    let since = performance.now();
    for (;;) {
      const broken = this.#broken(expected);
      const missing = broken.unanswered + broken.lost + broken.receiptsLost;
      if (missing < least) {
        least = missing;
        since = performance.now();
      }
      if (missing === 0 || performance.now() - since > STANDSTILL_MS) return broken;
      await Promise.race([sleep(5), this.failed]);
    }
  }

  /** Closes all connections. */
  async end(): Promise<void> {
    const devices = new Set([...this.#senders.values(), ...this.#recipients.values()]);
    await Promise.all(Array.from(devices, (device) => device.end()));
  }

  fail(error: Error): void {
    this.#fail(error);
  }

  dirty(device: Device): void {
    if (this.#dirty.length === 0) {
      setImmediate(() => {
        const devices = this.#dirty;
        this.#dirty = [];
        for (const each of devices) each.flush();
      });
    }
    this.#dirty.push(device);
  }

  frame(device: Device, frame: ServerFrame): void {
    if (frame.content !== undefined) this.#message(device, frame, frame.content);
    else if (frame.status !== undefined) this.#status(device, frame, frame.client_message_id ?? '');
    else if (frame.error) this.fail(new Error(`refused: ${frame.error.code}: ${frame.error.message}`));
  }

  #message(device: Device, frame: ServerFrame, content: string): void {
    device.confirm(frame.server_message_id ?? '');
    // Another run's message, left over because its confirmation was lost with the connection.
    if (!content.startsWith(this.#run.slice(0, 4))) return;
    const mark = markOfText(content);
    const flow = this.#flows[mark.flow];
    if (flow?.recipientId !== device.account.userId || flow.sender.userId !== frame.sender_id) {
      return this.fail(new Error(`a message of ${frame.sender_id} came to ${device.account.userId}`));
    }
    if (!flow.receive(device.slot, mark.number, content, frame.timestamp ?? '')) return;
    this.meter.copies++;
    if (device.slot === 0) {
      this.meter.delivered++;
      const age = flow.age(mark.number, performance.now());
      if (age !== undefined) this.meter.message.record(age);
    }
    this.#pump(flow);
  }

  #status(device: Device, frame: ServerFrame, clientMessageId: string): void {
    if (frame.event_id !== undefined) device.ack(frame.event_id);
    if (!clientMessageId.startsWith(this.#run)) return;
    const mark = markOfId(clientMessageId);
    const flow = this.#flows[mark.flow];
    if (flow?.sender.userId !== device.account.userId) {
      return this.fail(new Error(`a status for ${clientMessageId} came to ${device.account.userId}`));
    }
    const age = flow.age(mark.number, performance.now());
    if (frame.status === 'sent') {
      if (!flow.accepted.see(mark.number)) return;
      this.meter.accepted++;
      if (age !== undefined) this.meter.sent.record(age);
      this.#pump(flow);
    } else if (frame.status === 'delivered') {
      if (!flow.receipts.see(mark.number)) return;
      this.meter.receipts++;
      if (age !== undefined) this.meter.receipt.record(age);
    } else {
      this.fail(new Error(`a message got the status ${frame.status} ${frame.code ?? ''}`));
    }
  }

  #pump(flow: Flow): void {
    const done = this.#options.online
      ? flow.received.reduce((least, { seen }) => Math.min(least, seen), flow.accepted.seen)
      : flow.accepted.seen;
    while (flow.queued - done < this.#window && flow.queued < this.#limit) this.#send(flow);
  }

  #send(flow: Flow): void {
    flow.queued++;
    (this.#senders.get(flow.sender.token) as Device).send(flow);
  }

  async #connectAll(devices: Device[]): Promise<void> {
    const rest = devices[Symbol.iterator]();
    const connectRest = async () => {
      for (const device of rest) await device.connect(this.#options.url);
    };
    await Promise.race([Promise.all(Array.from({ length: CONNECTING }, connectRest)), this.failed]);
  }

  #broken(expected: { deliveries: boolean; receipts: boolean }): Broken {
    const { deliveries, receipts } = expected;
    const due = (flow: Flow) => (Number.isFinite(this.#limit) ? this.#limit : flow.queued);
    // What arrives before its `sent` must not make up for what is missing elsewhere.
    const behind = (accepted: number, seen: number) => Math.max(0, accepted - seen);
    return {
      lost: deliveries ? this.#sum((flow) => over(flow.received, ({ seen }) => behind(flow.accepted.seen, seen))) : 0,
      repeated: this.#sum((flow) => over(flow.received, ({ repeated }) => repeated)),
      // The order of `sent` frames is not promised; that of acceptance shows in arrival and timestamps.
      reordered: this.#sum((flow) => over(flow.received, ({ reordered }) => reordered)),
      backdated: this.#sum((flow) => flow.backdated),
      altered: this.#sum((flow) => flow.altered),
      unanswered: this.#sum((flow) => due(flow) - flow.accepted.seen),
      receiptsLost: receipts ? this.#sum((flow) => behind(flow.accepted.seen, flow.receipts.seen)) : 0,
      receiptsRepeated: this.#sum((flow) => flow.receipts.repeated),
    };
  }

  #sum(of: (flow: Flow) => number): number {
    return over(this.#flows, of);
  }
}

function over<T>(items: T[], of: (item: T) => number): number {
  return items.reduce((sum, item) => sum + of(item), 0);
}
