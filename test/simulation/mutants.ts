/** One fault, put into a compiled module by exchanging a piece of its text. */
export interface Mutant {
  readonly name: string;
  /** The module's path, from the root of the repository. */
  readonly module: string;
  /** Stands in the module once; line breaks and what is indented are one space. */
  readonly from: string;
  readonly to: string;
}

const RECIPIENT = 'services/chat/dist/routing/recipient.js';
const LEDGER = 'services/chat/dist/routing/ledger.js';
const OWNER = 'services/chat/dist/routing/owner.js';
const INGRESS = 'services/chat/dist/routing/ingress.js';
const LATE = 'services/chat/dist/routing/late-confirmations.js';
const RPC = 'services/chat/dist/rpc.js';
const SESSIONS = 'services/edge/dist/sessions/session-table.js';
const STREAM = 'services/edge/dist/routing/router-stream.js';

/**
 * Faults in the rules of delivery. The simulation has to find each: one that it does not find is a hole in it.
 *
 * Not among them: to send again what the record says is confirmed. When an owner starts anew, the record, the row that is gone
 * and the confirmations that edges have kept each keep a device from getting a message twice.
 */
export const MUTANTS: readonly Mutant[] = [
  {
    name: 'go live while rows have come',
    module: RECIPIENT,
    from: 'if (rows.length > 0 || device.appends !== appends) continue;',
    to: 'if (rows.length > 0) continue;',
  },
  {
    name: 'go live while rows are on their way',
    module: RECIPIENT,
    from: 'if (device.hasAppending) break;',
    to: '',
  },
  {
    name: 'read past a row that is on its way',
    module: RECIPIENT,
    from: '!device.hasAppending ? rows : belowAll(rows, device.appending)',
    to: 'rows',
  },
  {
    name: 'stay live when the window is full',
    module: RECIPIENT,
    from: "if (device.state === 'live') device.state = 'draining';",
    to: '',
  },
  {
    name: 'forget what a session that ends has not confirmed',
    module: RECIPIENT,
    from: "if (delivery.row === 'none') this.store(delivery);",
    to: '',
  },
  {
    name: 'say caught_up too early',
    module: RECIPIENT,
    from: 'if (!everything && (device.cursor === undefined || device.cursor < session.openedAt)) return;',
    to: '',
  },
  {
    name: 'never say caught_up',
    module: RECIPIENT,
    from: 'this.#caughtUp(device, true);',
    to: '',
  },
  {
    name: 'give the sending device a copy',
    module: RECIPIENT,
    from: 'if (message?.copy && device.id === message.senderDeviceId) continue;',
    to: 'if (message?.copy && device.id !== message.senderDeviceId) continue;',
  },
  {
    name: 'tell nobody of a confirmation',
    module: RECIPIENT,
    from: 'const receipt = news && !tracked.redriven',
    to: 'const receipt = false',
  },
  {
    name: 'tell of every confirmation',
    module: RECIPIENT,
    from: 'const receipt = news && !tracked.redriven',
    to: 'const receipt = !tracked.redriven',
  },
  {
    name: 'tell a status that cannot follow',
    module: RECIPIENT,
    from: 'this.#owner.contradicts(kind.value, record.position))',
    to: 'false)',
  },
  {
    name: 'lose the earlier of two copies',
    module: RECIPIENT,
    from: 'if (known && !message.copy && !record.event.redriven && known.position !== record.position) {',
    to: 'if (known && !message.copy && !record.event.redriven) {',
  },
  {
    name: 'drop the second of two copies before the record names the first',
    module: RECIPIENT,
    from: 'if (base) await this.#owner.statuses.accept([base]); this.#owner.acknowledge(record); }',
    to: 'this.#owner.acknowledge(record); }',
  },
  {
    name: 'let the log forget before the row is stored',
    module: LEDGER,
    from: 'await this.#store(batch); this.#storedAll(batch);',
    to: 'this.#store(batch).catch(() => {}); this.#storedAll(batch);',
  },
  {
    name: 'settle before a confirmation is recorded',
    module: LEDGER,
    from: 'await this.#record(batch);',
    to: 'this.#record(batch).catch(() => {});',
  },
  {
    name: 'publish no receipt that is repeated after an outage',
    module: LEDGER,
    from: 'if (receipts.length > 0) await this.whileUnavailable(() => log.publish(receipts, record));',
    to: 'if (receipts.length > 0) await log.publish(receipts, record).catch(() => {});',
  },
  {
    name: 'leave the rows of what is confirmed',
    module: LEDGER,
    from: 'this.#removeRows(stored);',
    to: '',
  },
  {
    name: 'go on with a partition that is lost',
    module: OWNER,
    from: 'lost: (tenure) => this.#lost(tenure),',
    to: '',
  },
  {
    name: 'take another tenure for the same',
    module: OWNER,
    from: 'if (recipient && recipient.tenure !== record.tenure) {',
    to: 'if (false) {',
  },
  {
    name: 'believe an owner that does not know',
    module: OWNER,
    from: 'return this.#consumer?.owns(userId) ?? false;',
    to: 'return true;',
  },
  {
    name: 'answer before the log has a message',
    module: INGRESS,
    from: 'if (copied.length === 0) await published;',
    to: 'if (copied.length === 0) published.catch(() => {});',
  },
  {
    name: 'accept a repeat as new',
    module: INGRESS,
    from: 'if (record) { this.#repeat(pending, record); return; }',
    to: '',
  },
  {
    name: 'answer for a copy that may be the second one',
    module: INGRESS,
    from: 'if (!pending.message.mayBeSecond) this.#finish(pending, acceptanceOf(pending));',
    to: 'if (true) this.#finish(pending, acceptanceOf(pending));',
  },
  {
    name: 'ignore that a message was tried through another router',
    module: INGRESS,
    from: 'if (first !== undefined) message.mayBeSecond = true;',
    to: '',
  },
  {
    name: 'forget what the log may have taken',
    module: INGRESS,
    from: 'message.mayBeSecond = this.#unrecorded.get(id) !== undefined;',
    to: '',
  },
  {
    name: 'take what is recorded for all that belongs to a message',
    module: INGRESS,
    from: 'if (record.complete || this.#completed.get(pending.id) !== undefined)',
    to: 'if (true)',
  },
  {
    name: 'give an earlier time than another router',
    module: INGRESS,
    from: 'if (pending.acceptedAtMs < this.#notBeforeMs) {',
    to: 'if (false) {',
  },
  {
    name: 'go by what was known before another router had the sender',
    module: INGRESS,
    from: "if (before === 'elsewhere') this.#deps.directory.forget(senderId);",
    to: '',
  },
  {
    name: 'keep a new device from the other routers',
    module: RPC,
    from: 'await Promise.all(devices.map(({ userId }) => attempts?.begin(userId, 0, [])));',
    to: '',
  },
  {
    name: 'deliver what may be a second copy unseen',
    module: RECIPIENT,
    from: 'if (record.mayRepeat || redriven || kind.value.mayBeSecond)',
    to: 'if (record.mayRepeat || redriven)',
  },
  {
    name: 'forget copies',
    module: INGRESS,
    from: 'const copied = batch.filter(({ copied, message }) => copied && !message.mayBeSecond);',
    to: 'const copied = [];',
  },
  {
    name: 'leave rows that a late confirmation is for',
    module: LATE,
    from: 'if (rows.size > 0 && batch.mayHaveRows) {',
    to: 'if (false) {',
  },
  {
    name: 'report a confirmation before it is durable',
    module: RPC,
    from: 'Promise.all([confirmed, durable])',
    to: 'Promise.all([confirmed])',
  },
  {
    name: 'keep to oneself what was confirmed without an owner',
    module: SESSIONS,
    from: 'for (const { status, ids } of kept ?? []) stream.confirm(session, status, ids);',
    to: '',
  },
  {
    name: 'take nothing back from an owner that is replaced',
    module: SESSIONS,
    from: 'for (const { session, status, ids } of owner.takeBack(sessions)) this.#keep(session, status, ids);',
    to: '',
  },
  {
    name: 'pass on what somebody says who does not own the session',
    module: SESSIONS,
    from: 'if (session.owner !== stream) {',
    to: 'if (false) {',
  },
  {
    name: 'drop what an ended session has confirmed',
    module: SESSIONS,
    from: 'if (session.closed) this.#confirmElsewhere(session, status, ids);',
    to: 'if (session.closed) continue;',
  },
  {
    name: 'overtake what another router has refused',
    module: SESSIONS,
    from: 'if (session.detour) session.detour.push({ number, submit, answer });',
    to: 'if (false) session.detour.push({ number, submit, answer });',
  },
  {
    name: 'forget confirmations when a stream is lost',
    module: STREAM,
    from: 'this.#listener.disconnected(this, lost);',
    to: 'this.#listener.disconnected(this, []);',
  },
];
