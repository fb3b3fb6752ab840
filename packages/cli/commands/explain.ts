import { type Timestamp, timestampMs } from '@bufbuild/protobuf/wkt';
import { MessageStatus } from '@chatmesh/gen/chat/v1/frames';
import {
  type ExplainMessageResponse,
  InternalChatService,
  type MessagePlace,
  MessagePlaceKind,
} from '@chatmesh/gen/chat/v1/internal';
import { MeshError } from '@chatmesh/mesh';
import { readToken } from '@chatmesh/sdk';
import { CommandError, edgeFailure, exitCodes } from '../failure.js';
import { type RouterOptions, Routers } from '../routers.js';
import type { Terminal } from '../terminal.js';

export interface ExplainOptions extends RouterOptions {
  token?: string;
  json: boolean;
}

/** In the order in which a message that meets no trouble makes them. */
type HopName = 'received' | 'accepted' | 'taken' | 'transmitted' | 'delivered' | 'read' | 'failed';

interface Hop {
  readonly hop: HopName;
  readonly atMs: number;
}

const HOP_TEXT: Record<HopName, string> = {
  received: 'received by an edge',
  accepted: 'accepted by a router',
  taken: "taken from the log or the inbox by the recipient's router",
  transmitted: 'transmitted to a device',
  delivered: 'delivered',
  read: 'read',
  failed: 'failed',
};

/**
 * `status --explain`: the time of every hop of messages, and where they lie now; never the content. With a token only
 * messages that its user has sent or received. Fails when there is no such message.
 */
export async function explain(terminal: Terminal, ids: readonly string[], options: ExplainOptions): Promise<void> {
  const participantId = options.token === undefined ? '' : userOf(options.token);
  const routers = new Routers(terminal, InternalChatService, options);
  let missing = 0;
  for (const serverMessageId of ids) {
    const request = { serverMessageId, participantId };
    const asked = await routers.all((router) =>
      router.explainMessage(request, { signal: terminal.signal }).catch((error: unknown) => {
        if (error instanceof MeshError && error.kind === 'not_found') return undefined;
        throw error;
      }),
    );
    const known = asked.flatMap(({ answer }) => (answer ? [answer] : []));
    const failed = asked.find(({ failure }) => failure !== undefined);
    if (known.length > 0) {
      const explained = together(known);
      if (options.json) terminal.out(JSON.stringify(asJson(serverMessageId, explained)));
      else for (const line of asText(serverMessageId, explained)) terminal.out(line);
      if (failed) terminal.err(`${failed.address} does not answer: what it has in its hands is not shown.`);
      continue;
    }
    if (failed) throw failed.failure;
    missing++;
    terminal.out(
      options.json
        ? JSON.stringify({ server_message_id: serverMessageId, status: 'unknown' })
        : `${serverMessageId} unknown`,
    );
  }
  if (missing > 0)
    throw new CommandError(
      exitCodes.refused,
      `${missing} of them ${participantId === '' ? 'nobody sent' : 'you neither sent nor received'}.`,
    );
}

/** From what a router knows of a device least to what it knows best: what is in flight only its owner sees. */
const TELLING = [
  MessagePlaceKind.UNSPECIFIED,
  MessagePlaceKind.ELSEWHERE,
  MessagePlaceKind.INBOX,
  MessagePlaceKind.LOG,
  MessagePlaceKind.IN_FLIGHT,
  MessagePlaceKind.CONFIRMED,
];

/** What several routers know of a message, as one. */
function together(answers: readonly ExplainMessageResponse[]): ExplainMessageResponse {
  const furthest = answers.reduce((best, next) => (hopsOf(next).length > hopsOf(best).length ? next : best));
  const merged = (placesOf: (answer: ExplainMessageResponse) => readonly MessagePlace[]) => {
    const best = new Map<string, MessagePlace>();
    for (const place of answers.flatMap(placesOf)) {
      const other = best.get(place.deviceId);
      if (!other || TELLING.indexOf(place.kind) > TELLING.indexOf(other.kind)) best.set(place.deviceId, place);
    }
    return [...best.values()];
  };
  return { ...furthest, places: merged(({ places }) => places), copies: merged(({ copies }) => copies) };
}

function userOf(token: string): string {
  try {
    return readToken(token).userId;
  } catch (error) {
    throw edgeFailure(error, '');
  }
}

function hopsOf({ state, receivedAtMs, takenAtMs, transmittedAtMs }: ExplainMessageResponse): Hop[] {
  const msOf = (at: Timestamp | undefined) => (at ? timestampMs(at) : 0);
  const hops: [HopName, number][] = [
    ['received', Number(receivedAtMs)],
    ['accepted', msOf(state?.acceptedAt)],
    ['taken', Number(takenAtMs)],
    ['transmitted', Number(transmittedAtMs)],
    ['delivered', msOf(state?.deliveredAt)],
    ['read', msOf(state?.readAt)],
    ['failed', msOf(state?.failedAt)],
  ];
  return hops.filter(([, atMs]) => atMs > 0).map(([hop, atMs]) => ({ hop, atMs }));
}

const statusOf = ({ state }: ExplainMessageResponse) =>
  MessageStatus[state?.status ?? MessageStatus.UNSPECIFIED].toLowerCase();

function asJson(id: string, explained: ExplainMessageResponse): object {
  const { state, senderId, position, places, copies } = explained;
  const hops = hopsOf(explained);
  return {
    server_message_id: id,
    client_message_id: state?.clientMessageId,
    status: statusOf(explained),
    code: state?.code || undefined,
    sender_id: senderId,
    receiver_id: state?.receiverId,
    position,
    hops: hops.map(({ hop, atMs }, i) => ({ hop, at: iso(atMs), after_ms: atMs - (hops[i - 1]?.atMs ?? atMs) })),
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
  for (const [i, { hop, atMs }] of hops.entries()) {
    const before = hops[i - 1];
    yield `  ${iso(atMs)} ${HOP_TEXT[hop]}${before ? `, ${atMs - before.atMs} ms later` : ''}`;
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
