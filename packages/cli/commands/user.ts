import { type CreatedUser, DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient } from '@chatmesh/mesh';
import { meshFailure } from '../failure.js';
import { operatorTls } from '../operator.js';
import { httpUrl } from '../options.js';
import type { Terminal } from '../terminal.js';

const maxUsersPerCall = 1000;
const maxLinks = 10;

export interface NewUsers {
  contactNumber: string;
  name: string;
  count: number;
  /** Seconds. */
  ttl: number;
  userAddress: string;
}

/** Creates users with one device each, in calls of up to 1,000. */
export async function* createUsers(
  terminal: Pick<Terminal, 'env' | 'signal'>,
  options: NewUsers,
): AsyncGenerator<CreatedUser> {
  const tls = operatorTls(terminal);
  const directory = createClient(DirectoryService, { address: options.userAddress, defaultDeadlineMs: 30_000, tls });
  try {
    for (let done = 0; done < options.count; done += maxUsersPerCall) {
      const first = BigInt(options.contactNumber.slice(1)) + BigInt(done);
      const { users } = await directory.createUsers(
        {
          contactNumber: `+${first}`,
          name: options.name,
          count: Math.min(maxUsersPerCall, options.count - done),
          tokenTtlSeconds: options.ttl,
        },
        { signal: terminal.signal },
      );
      yield* users;
    }
  } catch (error) {
    throw meshFailure(error, options.userAddress, '--user-address');
  } finally {
    directory.close();
  }
}

/** `user create`: a line of JSON for each, and the links that open the page as them. */
export async function createUserCommand(terminal: Terminal, options: NewUsers & { url: string }): Promise<void> {
  let links = 0;
  for await (const user of createUsers(terminal, options)) {
    const { userId: user_id, deviceId: device_id, contactNumber: contact_number, token } = user;
    terminal.out(JSON.stringify({ user_id, device_id, contact_number, token }));
    if (links++ < maxLinks) terminal.err(`Open ${httpUrl(options.url, '/')}#token=${token} as ${contact_number}`);
  }
}
