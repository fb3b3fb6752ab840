import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { readToken } from '@chatmesh/sdk';
import { CommandError, edgeFailure, exitCodes } from '../failure.js';
import { type RouterOptions, Routers } from '../routers.js';
import type { Terminal } from '../terminal.js';

export interface InboxOptions extends RouterOptions {
  token?: string;
  userId?: string;
  deviceId?: string;
  limit: number;
  json: boolean;
}

/** `inbox`: what waits for a device or for all of a user's devices; never the content. */
export async function inboxCommand(terminal: Terminal, options: InboxOptions): Promise<void> {
  const { userId, deviceId = '' } = whose(options);
  const { limit, json } = options;
  const routers = new Routers(terminal, InternalChatService, options);
  const { entries } = await routers.any((router) =>
    router.listInbox({ userId, deviceId, limit }, { signal: terminal.signal }),
  );
  for (const { acceptedAtMs, ...entry } of entries) {
    const accepted_at = new Date(Number(acceptedAtMs)).toISOString();
    const { deviceId: device_id, kind, id, senderId } = entry;
    if (json) {
      terminal.out(JSON.stringify({ device_id, kind, id, sender_id: senderId || undefined, accepted_at }));
    } else {
      terminal.out(`${accepted_at} ${kind} ${id}${senderId ? ` from ${senderId}` : ''} for device ${device_id}`);
    }
  }
  if (!json) terminal.err(entries.length === 0 ? 'Nothing waits.' : `${entries.length} waiting.`);
}

function whose({ token, userId, deviceId }: InboxOptions): { userId: string; deviceId?: string } {
  if (userId !== undefined) return { userId, ...(deviceId !== undefined && { deviceId }) };
  if (token === undefined) throw new CommandError(exitCodes.usage, 'Say whose: --token or --user-id.');
  try {
    return readToken(token);
  } catch (error) {
    throw edgeFailure(error, '');
  }
}
