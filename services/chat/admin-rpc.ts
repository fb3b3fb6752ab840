import type { AdminService } from '@chatmesh/gen/chat/v1/admin';
import { MeshError, type ServiceImpl } from '@chatmesh/mesh';
import { closeOf, confirmableId } from './domain/events.js';
import { type DeadLetter, senderKnows } from './routing/dead-letters.js';
import { type Device, MESSAGE_WINDOW, RECEIPT_WINDOW } from './routing/device.js';
import type { CachedDirectory } from './routing/directory.js';
import type { Owner, SessionFinder } from './routing/owner.js';
import type { MessageLog } from './stores/message-log.js';

export interface AdminDeps {
  readonly owner: Owner;
  readonly directory: CachedDirectory;
  readonly presence: SessionFinder;
  readonly log: MessageLog;
}

const DEFAULT_LIMIT = 100;

/** What operators ask. */
export function adminRpc({ owner, directory, presence, log }: AdminDeps): ServiceImpl<typeof AdminService> {
  const { deadLetters } = owner;
  return {
    async closeSessions({ userId, deviceId }) {
      // Asked afresh: the user may have been suspended a moment ago, and acceptance looks here.
      if (!(await directory.find(userId))) throw new MeshError('not_found', 'no such user');
      // Presence only counts: the owner knows which sessions there are.
      const known = await presence.sessions(userId).catch(() => []);
      await log.publish([closeOf(userId, deviceId)]);
      return { sessions: known.filter((session) => deviceId === '' || session.deviceId === deviceId).length };
    },

    async describeUser({ userId }) {
      const actor = owner.actor(userId)?.describe();
      return {
        owner: owner.owns(userId),
        ...(actor && {
          actor: {
            ...actor,
            sinceMs: BigInt(actor.sinceMs),
            devices: actor.devices.map((device) => deviceOf(device, owner)),
          },
        }),
      };
    },

    async listDeadLetters({ limit, after }) {
      const letters = await deadLetters.list(limit || DEFAULT_LIMIT, after || undefined);
      return { deadLetters: letters.map(shown) };
    },

    async redriveDeadLetters({ ids, deliverFailed }) {
      return await deadLetters.redrive(ids, deliverFailed);
    },

    async discardDeadLetters({ ids }) {
      return await deadLetters.discard(ids);
    },
  };
}

function deviceOf(device: Device, owner: Owner) {
  const { session, oldestUnconfirmedAtMs: oldest } = device;
  return {
    deviceId: device.id,
    state: device.state,
    edgeId: session?.link.edgeId ?? '',
    session: session?.number ?? 0,
    attachedAtMs: BigInt(session?.attachedAtMs ?? 0),
    messagesOut: device.messagesOut,
    messageWindow: MESSAGE_WINDOW,
    receiptsOut: device.receiptsOut,
    receiptWindow: RECEIPT_WINDOW,
    ...device.writing,
    oldestUnconfirmedAtMs: BigInt(oldest === undefined ? 0 : owner.told(oldest)),
    waitsFor: device.waitsFor,
  };
}

/** A dead letter without its content. */
function shown({ id, event }: DeadLetter) {
  const { kind, userId, givenUp } = event;
  const message = kind.case === 'message' ? kind.value : undefined;
  return {
    id,
    kind: message?.copy ? 'copy' : (kind.case ?? ''),
    userId,
    senderId: message?.senderId ?? '',
    eventId: confirmableId(event) ?? '',
    atMs: givenUp?.atMs ?? 0n,
    reason: givenUp?.reason ?? '',
    senderTold: senderKnows(event),
  };
}
