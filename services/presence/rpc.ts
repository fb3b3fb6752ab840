import type { PresenceService } from '@chatmesh/gen/presence/v1/presence';
import type { Session, SessionService } from '@chatmesh/gen/presence/v1/session';
import { MeshError, type ServiceImpl } from '@chatmesh/mesh';
import type { EdgeSession, PresenceStore } from './stores/presence-store.js';

const UUID = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i;

/** What edges report and routers ask. */
export function sessionRpc(store: PresenceStore): ServiceImpl<typeof SessionService> {
  return {
    async report({ edgeId, leaseMs, full, opened, closed }) {
      const report = { edgeId, leaseMs, full, opened: opened.map(sessionOf), closed: closed.map(sessionOf) };
      const { known } = await store.report(report);
      return { unknownEdge: !known };
    },

    async listSessions({ userIds }) {
      const sessions = await store.sessionsOf(userIds.map((id) => id.toLowerCase()));
      return { sessions: sessions.map(({ edgeId, ...session }) => ({ session, edgeId })) };
    },
  };
}

/** In the contract; this version does not serve it. */
export const presenceRpc: ServiceImpl<typeof PresenceService> = {
  async get() {
    throw unserved();
  },

  // biome-ignore lint/correctness/useYield: it fails before its first message.
  async *watch() {
    throw unserved();
  },
};

/** The contract has no rule for these: an edge reports thousands at once, and this is cheaper than the rules' engine. */
function sessionOf({ userId, deviceId, session }: Session): EdgeSession {
  if (!UUID.test(userId) || !UUID.test(deviceId)) {
    throw new MeshError('invalid_argument', 'a session needs the UUIDs of its user and its device');
  }
  return { userId: userId.toLowerCase(), deviceId: deviceId.toLowerCase(), session };
}

function unserved(): MeshError {
  return new MeshError('unimplemented', 'this version does not serve the method');
}
