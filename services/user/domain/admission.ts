import { MeshError } from '@chatmesh/mesh';

/** Devices of a user that are not revoked. */
export const MAX_DEVICES = 10;

/** A user, and how the device that wants to connect stands with it. */
interface State {
  readonly suspended: boolean;
  readonly deleted: boolean;
  readonly device: 'unknown' | 'unannounced' | 'announced' | 'revoked';
}

/**
 * Whether a device with a verified token may connect, by what is known of it (undefined: the user is unknown).
 *
 * @param external whether the token comes from another issuer than the mesh's own.
 * @returns what is to be done: `admit` it, `announce` it in its user's stream first, or `register` it, and the user.
 * @throws MeshError `unauthenticated` for an unknown user of the mesh's own issuer; `permission_denied` for a revoked
 * device and for a suspended or deleted user.
 */
export function judge(state: State | undefined, external: boolean): 'admit' | 'announce' | 'register' {
  if (!state) {
    if (external) return 'register';
    throw new MeshError('unauthenticated', 'the token is for an unknown user');
  }
  if (state.deleted) throw new MeshError('permission_denied', 'the user is deleted');
  if (state.suspended) throw new MeshError('permission_denied', 'the user is suspended');
  switch (state.device) {
    case 'revoked':
      throw new MeshError('permission_denied', 'the device is revoked');
    case 'unknown':
      return 'register';
    case 'unannounced':
      return 'announce';
    case 'announced':
      return 'admit';
  }
}

/**
 * Judges what a registration has come to, when the device was unknown before it.
 *
 * @returns true: the device is registered and still to be announced, unless somebody else has done both meanwhile.
 * @throws MeshError as {@link judge}, and `permission_denied` when the user has {@link MAX_DEVICES} already.
 */
export function judgeRegistration(state: State | undefined, external: boolean): boolean {
  const verdict = judge(state, external);
  if (verdict === 'register') {
    throw new MeshError('permission_denied', `the user has ${MAX_DEVICES} devices already; revoke one first`);
  }
  return verdict === 'announce';
}
