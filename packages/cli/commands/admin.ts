import { type Actor, type ActorDevice, AdminService, type DeadLetter } from '@chatmesh/gen/chat/v1/admin';
import { AdminService as UserAdminService } from '@chatmesh/gen/user/v1/admin';
import { createClient } from '@chatmesh/mesh';
import { CommandError, exitCodes, meshFailure } from '../failure.js';
import { operatorTls } from '../operator.js';
import { type RouterOptions, Routers } from '../routers.js';
import { printable, type Terminal } from '../terminal.js';

interface MeshOptions extends RouterOptions {
  json: boolean;
}

const routers = (terminal: Terminal, options: RouterOptions) => new Routers(terminal, AdminService, options);

/** The most that one call of the contract takes. */
const PAGE = 256;

/** `admin suspend` and `admin unsuspend`: in the directory first, so that nobody whose session ends comes back. */
export async function suspendCommand(
  terminal: Terminal,
  userId: string,
  suspended: boolean,
  options: MeshOptions & { userAddress: string },
): Promise<void> {
  const { userAddress } = options;
  const users = createClient(UserAdminService, { address: userAddress, tls: operatorTls(terminal) });
  try {
    await users.setSuspended({ userId, suspended }, { signal: terminal.signal });
  } catch (error) {
    throw meshFailure(error, userAddress, '--user-address');
  } finally {
    users.close();
  }
  try {
    // Without a session nothing is closed; routers learn of it at once.
    const { sessions } = suspended
      ? await routers(terminal, options).any((router) => router.closeSessions({ userId }))
      : { sessions: 0 };
    if (options.json) terminal.out(JSON.stringify({ user_id: userId, suspended, ...(suspended && { sessions }) }));
    else if (suspended) terminal.out(`${userId} is suspended; ${counted(sessions, 'session')} told to end.`);
    else terminal.out(`${userId} may connect and send again.`);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CommandError(
      error.exitCode,
      `${userId} is suspended, but its sessions were not told to end; run this again. ${error.message}`,
    );
  }
}

/** `admin close`: ends the sessions of a user or of one of its devices, wherever they are. */
export async function closeCommand(
  terminal: Terminal,
  userId: string,
  options: MeshOptions & { device?: string },
): Promise<void> {
  const { device: deviceId = '' } = options;
  const { sessions } = await routers(terminal, options).any((router) => router.closeSessions({ userId, deviceId }));
  if (options.json) terminal.out(JSON.stringify({ user_id: userId, device_id: deviceId || undefined, sessions }));
  else terminal.out(`${counted(sessions, 'session')} of ${userId} told to end.`);
}

/** `admin owner`: which router has a user, and what its actor does there. */
export async function ownerCommand(terminal: Terminal, userId: string, options: MeshOptions): Promise<void> {
  const failures: unknown[] = [];
  let owned = false;
  const asked = await routers(terminal, options).all((router) => router.describeUser({ userId }));
  for (const { address, answer, failure } of asked) {
    if (!answer) {
      failures.push(failure);
      continue;
    }
    const { owner, actor } = answer;
    owned ||= owner;
    if (!owner && !actor) continue;
    if (options.json) {
      terminal.out(JSON.stringify({ router: address, owner, ...(actor && { actor: actorJson(actor) }) }));
    } else {
      const former = owner ? 'owns' : 'has something left of';
      terminal.out(`${address} ${former} ${userId}${actor ? `: ${described(actor)}` : '; nothing goes on with it.'}`);
      for (const device of actor?.devices ?? []) terminal.out(`  ${describedDevice(device)}`);
    }
  }
  if (failures.length > 0) throw failures[0];
  if (!owned) {
    throw new CommandError(
      exitCodes.refused,
      `None of these routers owns ${userId}. It may be changing hands; or --chat-addresses does not name all routers.`,
    );
  }
}

/** `admin dead-letters`: what was given up, oldest first. */
export async function deadLettersCommand(terminal: Terminal, options: MeshOptions & { limit: number }): Promise<void> {
  let left = options.limit;
  for await (const page of deadLetters(terminal, options)) {
    for (const letter of page.slice(0, left)) terminal.out(options.json ? letterJson(letter) : letterText(letter));
    left -= page.length;
    if (left <= 0) break;
  }
  if (left === options.limit && !options.json) terminal.err('There are no dead letters.');
}

/** `admin redrive` and `admin discard`: what happens to dead letters, given by their ids or all of them. */
export async function dealWithCommand(
  terminal: Terminal,
  ids: readonly string[],
  deal: 'redrive' | 'discard',
  options: MeshOptions & { all?: boolean; deliverFailed?: boolean },
): Promise<void> {
  if (ids.length === 0 && !options.all) throw new CommandError(exitCodes.usage, 'Say which: by their ids, or --all.');
  if (ids.length > 0 && options.all) throw new CommandError(exitCodes.usage, 'Give either ids or --all.');
  const say = (done: readonly string[], outcome: string, text: string) => {
    for (const id of done) terminal.out(options.json ? JSON.stringify({ id, outcome }) : `${id} ${text}`);
  };
  let refused = 0;
  for await (const page of options.all ? allIds(terminal, options) : pagesOf(ids)) {
    if (deal === 'discard') {
      const result = await routers(terminal, options).any((router) => router.discardDeadLetters({ ids: page }));
      say(result.discarded, 'discarded', 'is discarded.');
      say(result.notFound, 'not_found', 'is no dead letter.');
      refused += options.all ? 0 : result.notFound.length;
      continue;
    }
    const request = { ids: page, deliverFailed: options.deliverFailed ?? false };
    const result = await routers(terminal, options).any((router) => router.redriveDeadLetters(request));
    say(result.redriven, 'redriven', 'is on the log again.');
    say(result.senderTold, 'sender_told', 'stays: its sender was told that it failed. --deliver-failed delivers it.');
    say(result.notFound, 'not_found', 'is no dead letter.');
    refused += result.senderTold.length + (options.all ? 0 : result.notFound.length);
  }
  if (refused > 0) throw new CommandError(exitCodes.refused, `${counted(refused, 'dead letter')} left as before.`);
}

async function* allIds(terminal: Terminal, options: MeshOptions): AsyncGenerator<string[]> {
  for await (const page of deadLetters(terminal, options)) yield page.map(({ id }) => id);
}

function* pagesOf(ids: readonly string[]): Generator<string[]> {
  for (let at = 0; at < ids.length; at += PAGE) yield ids.slice(at, at + PAGE);
}

async function* deadLetters(terminal: Terminal, options: MeshOptions): AsyncGenerator<DeadLetter[]> {
  for (let after = ''; ; ) {
    const page = await routers(terminal, options).any((router) => router.listDeadLetters({ limit: PAGE, after }));
    if (page.deadLetters.length === 0) return;
    yield page.deadLetters;
    after = page.deadLetters.at(-1)?.id ?? '';
  }
}

function letterJson(letter: DeadLetter): string {
  const { id, kind, userId, senderId, eventId, atMs, reason, senderTold } = letter;
  return JSON.stringify({
    id,
    kind,
    user_id: userId,
    sender_id: senderId || undefined,
    event_id: eventId || undefined,
    at: time(atMs),
    reason: reason || undefined,
    sender_told: senderTold,
  });
}

function letterText({ id, kind, userId, senderId, eventId, atMs, reason, senderTold }: DeadLetter): string {
  const what = [kind, eventId, senderId && `from ${senderId}`, `for ${userId}`].filter(Boolean).join(' ');
  const told = senderTold ? '; its sender was told' : '';
  return `${id} ${time(atMs) ?? 'at some time'} ${what}: ${printable(reason) || 'unknown reason'}${told}`;
}

function actorJson({ sinceMs, suspended, waitsFor, waitingEvents, unacknowledged, devices }: Actor) {
  return {
    since: time(sinceMs),
    suspended,
    waits_for: waitsFor || undefined,
    waiting_events: waitingEvents,
    unacknowledged,
    devices: devices.map((device) => ({
      device_id: device.deviceId,
      state: device.state,
      edge_id: device.edgeId || undefined,
      session: device.edgeId ? device.session : undefined,
      attached_at: time(device.attachedAtMs),
      messages_out: device.messagesOut,
      message_window: device.messageWindow,
      receipts_out: device.receiptsOut,
      receipt_window: device.receiptWindow,
      settling: device.settling,
      appending: device.appending,
      oldest_unconfirmed_at: time(device.oldestUnconfirmedAtMs),
      waits_for: device.waitsFor || undefined,
    })),
  };
}

function described({ sinceMs, suspended, waitsFor, waitingEvents, unacknowledged }: Actor): string {
  const parts = [`active since ${time(sinceMs)}`, `${unacknowledged} unacknowledged on the log`];
  if (suspended) parts.push('suspended');
  if (waitsFor) parts.push(`waits for ${waitsFor}, ${waitingEvents} behind it`);
  return parts.join(', ');
}

function describedDevice(device: ActorDevice): string {
  const parts = [`device ${device.deviceId} is ${device.state}`];
  if (device.edgeId) {
    parts.push(`session ${device.session} on edge ${device.edgeId} since ${time(device.attachedAtMs)}`);
    parts.push(`${device.messagesOut} of ${device.messageWindow} messages unconfirmed`);
    parts.push(`${device.receiptsOut} of ${device.receiptWindow} receipts unacked`);
  }
  if (device.settling > 0) parts.push(`${device.settling} confirmations being written`);
  if (device.appending > 0) parts.push(`${device.appending} rows being written`);
  if (device.oldestUnconfirmedAtMs > 0n) parts.push(`the oldest sent at ${time(device.oldestUnconfirmedAtMs)}`);
  if (device.waitsFor) parts.push(`waits for ${device.waitsFor}`);
  return parts.join(', ');
}

function time(ms: bigint): string | undefined {
  return ms > 0n ? new Date(Number(ms)).toISOString() : undefined;
}

function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? '' : 's'}`;
}
