import type { AuthService } from '@chatmesh/gen/user/v1/auth';
import type { ContactService } from '@chatmesh/gen/user/v1/contact';
import type { GroupService } from '@chatmesh/gen/user/v1/group';
import type { KeyService } from '@chatmesh/gen/user/v1/key';
import type { SettingsService } from '@chatmesh/gen/user/v1/settings';
import { MeshError, type ServiceImpl } from '@chatmesh/mesh';

/** Answers `unimplemented`: the method is in the contract, and this version does not serve it. */
export async function later(): Promise<never> {
  throw new MeshError('unimplemented', 'this version does not serve the method');
}

/** {@link later} for a stream. */
// biome-ignore lint/correctness/useYield: a stream that fails before its first message.
export async function* laterStream(): AsyncGenerator<never> {
  await later();
}

export const auth: ServiceImpl<typeof AuthService> = {
  startVerification: later,
  completeVerification: later,
  refreshToken: later,
  listDevices: later,
  revokeDevice: later,
};

export const contacts: ServiceImpl<typeof ContactService> = {
  addContact: later,
  removeContact: later,
  listContacts: later,
  block: later,
  unblock: later,
  listBlocked: later,
};

export const settings: ServiceImpl<typeof SettingsService> = {
  getSettings: later,
  updateSettings: later,
};

export const groups: ServiceImpl<typeof GroupService> = {
  createGroup: later,
  getGroup: later,
  listGroups: later,
  updateGroup: later,
  addMembers: later,
  removeMember: later,
  leaveGroup: later,
  setRole: later,
};

export const keys: ServiceImpl<typeof KeyService> = {
  publishKey: later,
  rotateKey: later,
  getKeys: later,
};
