import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import {
  type ExplainMessageResponse,
  InternalChatService,
  type MessagePlace,
  MessagePlaceKind,
} from '@chatmesh/gen/chat/v1/internal';
import { createClient, MeshError } from '@chatmesh/mesh';
import { readToken } from '@chatmesh/sdk';
import { CommandError, edgeFailure, exitCodes, meshFailure } from '../failure.js';
import { operatorTls } from '../operator.js';
import type { Terminal } from '../terminal.js';

export interface ExplainOptions {
  token?: string;
  chatAddress: string;
  json: boolean;
}

interface Hop {
  readonly hop: 'accepted' | 'delivered' | 'read' | 'failed';
  readonly atMs: number;
}

/**
 * `status --explain`: the time of every hop of messages, and where they lie now; never the content. With a token only
 * messages that its user has sent or received. Fails when there is no such message.
 */
export async function explain(terminal: Terminal, ids: readonly string[], options: ExplainOptions): Promise<void> {
  const participantId = options.token === undefined ? '' : userOf(options.token);
  const chat = createClient(InternalChatService, { address: options.chatAddress, tls: operatorTls(terminal) });
  let missing = 0;
  try {
    for (const serverMessageId of ids) {
      try {
        const request = { serverMessageId, participantId };
        const explained = await chat.explainMessage(request, { signal: terminal.signal });
        if (options.json) terminal.out(JSON.stringify(asJson(serverMessageId, explained)));
        else for (const line of asText(serverMessageId, explained)) terminal.out(line);
      } catch (error) {
        if (!(error instanceof MeshError && error.kind === 'not_found')) throw error;
        missing++;
        terminal.out(
          options.json
            ? JSON.stringify({ server_message_id: serverMessageId, status: 'unknown' })
            : `${serverMessageId} unknown`,
        );
      }
    }
  } catch (error) {
    throw meshFailure(error, options.chatAddress, '--chat-address');
  } finally {
    chat.close();
  }
  if (missing > 0)
    throw new CommandError(
      exitCodes.refused,
      `${missing} of them ${participantId === '' ? 'nobody sent' : 'you neither sent nor received'}.`,
    );
}

function userOf(token: string): string {
  try {
    return readToken(token).userId;
  } catch (error) {
    throw edgeFailure(error, '');
  }
}

function hopsOf({ state }: ExplainMessageResponse): Hop[] {
  const hops = [
    { hop: 'accepted', at: state?.acceptedAt },
    { hop: 'delivered', at: state?.deliveredAt },
    { hop: 'read', at: state?.readAt },
    { hop: 'failed', at: state?.failedAt },
  ] as const;
  const known = hops.flatMap(({ hop, at }) => (at ? [{ hop, atMs: Number(at.seconds) * 1000 + at.nanos / 1e6 }] : []));
  return known.sort((a, b) => a.atMs - b.atMs);
}

const statusOf = ({ state }: ExplainMessageResponse) =>
  MessageStatus[state?.status ?? MessageStatus.UNSPECIFIED].toLowerCase();

function asJson(id: string, explained: ExplainMessageResponse): object {
  const { state, senderId, position, places, copies } = explained;
  const hops = hopsOf(explained);
  const acceptedMs = hops[0]?.atMs ?? 0;
  return {
    server_message_id: id,
    client_message_id: state?.clientMessageId,
    status: statusOf(explained),
    code: state?.code || undefined,
    sender_id: senderId,
    receiver_id: state?.receiverId,
    position,
    hops: hops.map(({ hop, atMs }) => ({ hop, at: iso(atMs), after_ms: atMs - acceptedMs })),
    devices: places.map(placeJson),
    copies: copies.map(placeJson),
  };
}

function placeJson({ deviceId, kind, transmittedAtMs, repeats }: MessagePlace): object {
  const inFlight = kind === MessagePlaceKind.IN_FLIGHT;
  return {
    device_id: deviceId,
    place: MessagePlaceKind[kind].toLowerCase(),
    ...(inFlight && { transmitted_at: iso(Number(transmittedAtMs)), repeats }),
  };
}

function* asText(id: string, explained: ExplainMessageResponse): Generator<string> {
  const { state, senderId, position, places, copies } = explained;
  yield `${id} ${statusOf(explained)}${state?.code ? ` (${state.code})` : ''}`;
  yield `  from ${senderId} to ${state?.receiverId}, at position ${position} of the log`;
  const hops = hopsOf(explained);
  for (const { hop, atMs } of hops) {
    const afterMs = atMs - (hops[0]?.atMs ?? atMs);
    yield `  ${iso(atMs)} ${hop}${afterMs > 0 ? ` after ${afterMs} ms` : ''}`;
  }
  for (const place of places) yield `  device ${place.deviceId}: ${placeText(place)}`;
  for (const place of copies) yield `  the sender's device ${place.deviceId}, a copy: ${placeText(place)}`;
}

function placeText({ kind, transmittedAtMs, repeats }: MessagePlace): string {
  switch (kind) {
    case MessagePlaceKind.CONFIRMED:
      return 'has confirmed it';
    case MessagePlaceKind.INBOX:
      return 'waits in its inbox';
    case MessagePlaceKind.IN_FLIGHT: {
      const times = repeats === 0 ? '' : `, ${repeats + 1} times`;
      return `transmitted ${iso(Number(transmittedAtMs))}${times}, not confirmed`;
    }
    case MessagePlaceKind.LOG:
      return 'on the log, about to be transmitted';
    default:
      return 'neither confirmed nor in its inbox: on its way through another router, or the device came later';
  }
}

function iso(ms: number): string {
  return new Date(ms).toISOString();
}
