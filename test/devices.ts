import { randomUUID } from 'node:crypto';
import { SignJWT } from 'jose';
import type { TestUser } from './mesh.js';

/** For AUTH_HS256_SECRET of meshes whose users have several devices. */
export const SECRET = 'a secret that is long enough for HS256';

/** Another device of a user, registered when it connects; for longer than any test turns the clock on. */
export async function deviceOf(
  { userId }: Pick<TestUser, 'userId'>,
  deviceId: string = randomUUID(),
): Promise<TestUser> {
  const token = await new SignJWT({ did: deviceId })
    .setProtectedHeader({ alg: 'HS256' })
    .setSubject(userId)
    .setExpirationTime('3000d')
    .sign(new TextEncoder().encode(SECRET));
  return { userId, deviceId, contactNumber: '', token };
}
