import type { MessageInitShape } from '@bufbuild/protobuf';
import {
  type ExplainMessageRequest,
  type ExplainMessageResponseSchema,
  MessagePlaceKind,
  type MessagePlaceSchema,
} from '@chatmesh/gen/chat/v1/internal';
import { LogEventWire } from '@chatmesh/gen/wire/chat/v1/log';
import { MeshError } from '@chatmesh/mesh';
import { confirmableId, deviceMark } from '../domain/events.js';
import { UNCLAIMED_DEVICE } from '../domain/ids.js';
import type { CachedDirectory } from '../routing/directory.js';
import type { Owner } from '../routing/owner.js';
import type { InboxStore } from '../stores/inbox-store.js';
import type { Position } from '../stores/message-log.js';
import { DAMAGED, type StatusStore } from '../stores/status-store.js';
import { stateOf } from './message-state.js';

interface ExplainDeps {
  readonly owner: Owner;
  readonly directory: CachedDirectory;
  readonly inbox: InboxStore;
  readonly statuses: StatusStore;
}

type Place = MessageInitShape<typeof MessagePlaceSchema>;

/** A copy stands at a position of its own, which nothing records: so many rows are looked through for it. */
const COPY_ROWS = 1_000;

/**
 * What is known of one message. Events go from the log to the inbox to the status record, so they are looked for in this
 * order: one that moves meanwhile is seen at least once.
 *
 * @throws MeshError `not_found` where there is no such message, or the participant has no part in it; `internal` where its
 * record is damaged.
 */
export async function explainMessage(
  { owner, directory, inbox, statuses }: ExplainDeps,
  { serverMessageId: id, participantId }: Pick<ExplainMessageRequest, 'serverMessageId' | 'participantId'>,
): Promise<MessageInitShape<typeof ExplainMessageResponseSchema>> {
  const read = async () => {
    const [record] = await statuses.get([id]);
    if (record === DAMAGED) throw new MeshError('internal', 'the status record of this message is damaged');
    return record;
  };
  const first = await read();
  if (!first || (participantId !== '' && ![first.senderId, first.recipientId].includes(participantId)))
    throw new MeshError('not_found', 'there is no such message, or it was expired');
  const { senderId, recipientId, position } = first;
  const handled = [owner.whereabouts(recipientId, id), owner.whereabouts(senderId, id)] as const;
  const [devices, others] = await Promise.all([devicesOf(directory, recipientId), devicesOf(directory, senderId)]);
  const rows = await Promise.all(devices.map((device) => isAt(inbox, recipientId, device, position)));
  const copied = senderId === recipientId ? [] : others;
  const copyRows = await Promise.all(copied.map((device) => hasCopy(inbox, senderId, device, id)));
  const record = (await read()) ?? first;
  const places = devices.map((device, i) =>
    placeOf(device, record.devices.includes(device), rows[i], handled[0], owner),
  );
  const copies = copied.map((device, i) =>
    placeOf(device, record.devices.includes(deviceMark(true, device)), copyRows[i], handled[1], owner),
  );
  return {
    state: stateOf(record),
    senderId,
    position,
    receivedAtMs: BigInt(record.receivedAtMs),
    takenAtMs: BigInt(record.takenAtMs),
    transmittedAtMs: BigInt(record.transmittedAtMs),
    // The nil device stands for the first one to come; most users have theirs.
    places: places.filter(({ deviceId, kind }) => deviceId !== UNCLAIMED_DEVICE || isSomewhere(kind)),
    // Which device has sent it is not recorded: it is among those that have no copy.
    copies: copies.filter(({ kind }) => isSomewhere(kind)),
  };
}

async function devicesOf(directory: CachedDirectory, userId: string): Promise<string[]> {
  const user = await directory.find(userId);
  return [...new Set([...(user?.deviceIds ?? []), UNCLAIMED_DEVICE])];
}

function isSomewhere(kind: Place['kind']): boolean {
  return kind !== MessagePlaceKind.ELSEWHERE && kind !== MessagePlaceKind.LOG;
}

function placeOf(
  deviceId: string,
  confirmed: boolean,
  inInbox: boolean | undefined,
  handled: ReturnType<Owner['whereabouts']>,
  owner: Owner,
): Place {
  if (confirmed) return { deviceId, kind: MessagePlaceKind.CONFIRMED };
  const transmitted = handled.transmitted.get(deviceId);
  if (transmitted) {
    const { sentAtMs, attempts } = transmitted;
    return {
      deviceId,
      kind: MessagePlaceKind.IN_FLIGHT,
      transmittedAtMs: BigInt(owner.told(sentAtMs)),
      repeats: attempts,
    };
  }
  if (inInbox) return { deviceId, kind: MessagePlaceKind.INBOX };
  return { deviceId, kind: handled.onLog ? MessagePlaceKind.LOG : MessagePlaceKind.ELSEWHERE };
}

async function isAt(inbox: InboxStore, userId: string, deviceId: string, position: Position): Promise<boolean> {
  // A page from the start makes the store look anew, whatever this router remembers of an inbox that is another one's.
  const [lowest] = await inbox.page(userId, deviceId, undefined, 1);
  if (!lowest || lowest.position >= position) return lowest?.position === position;
  const [row] = await inbox.page(userId, deviceId, before(position), 1);
  return row?.position === position;
}

async function hasCopy(inbox: InboxStore, userId: string, deviceId: string, id: string): Promise<boolean> {
  const rows = await inbox.page(userId, deviceId, undefined, COPY_ROWS);
  return rows.some(({ payload }) => confirmableId(LogEventWire.decode(payload)) === id);
}

/** The position below one; undefined for the lowest. */
function before(position: Position): Position | undefined {
  const value = BigInt(`0x${position}`);
  return value === 0n ? undefined : (value - 1n).toString(16).padStart(position.length, '0');
}
