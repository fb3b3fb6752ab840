import { InternalChatService } from '@chatmesh/gen/chat/v1/internal';
import { DirectoryService } from '@chatmesh/gen/user/v1/directory';
import { createClient, type Logger, MeshError } from '@chatmesh/mesh';
import type { SessionTable } from '../sessions/session-table.js';
import type { TokenVerifier, VerifiedToken } from './token-verifier.js';

/** Lets a verified user and device in. */
export class Admission {
  readonly #verifier: TokenVerifier;
  readonly #directory;
  readonly #chat;
  readonly #maxConnectionsPerUser: number;

  constructor(options: {
    verifier: TokenVerifier;
    userAddress: string;
    chatAddress: string;
    maxConnectionsPerUser: number;
    logger: Logger;
  }) {
    this.#verifier = options.verifier;
    this.#maxConnectionsPerUser = options.maxConnectionsPerUser;
    this.#directory = createClient(DirectoryService, { address: options.userAddress, logger: options.logger });
    this.#chat = createClient(InternalChatService, { address: options.chatAddress, logger: options.logger });
  }

  /**
   * Verifies a token and registers its device where it is new. A new device is in its user's stream before this
   * returns, so that it gets everything that is accepted from then on.
   *
   * @throws MeshError `unauthenticated`, `permission_denied`, `unavailable`
   */
  async admit(token: string): Promise<VerifiedToken> {
    const verified = await this.#verifier.verify(token);
    const { userId, deviceId, external } = verified;
    const { registered } = await this.#directory.admitDevice({ userId, deviceId, external });
    if (registered) {
      await this.#chat.announceDevices({ devices: [{ userId, deviceId }] });
      await this.#directory.confirmAnnounced({ devices: [{ userId, deviceId }] });
    }
    return verified;
  }

  /**
   * Admits a connection, which counts towards the user's limit unless it replaces one of the same device.
   *
   * @throws MeshError as {@link admit}, `unavailable` while draining, `resource_exhausted` for too many connections.
   */
  async admitConnection(token: string, sessions: SessionTable): Promise<VerifiedToken> {
    if (sessions.draining) throw new MeshError('unavailable', 'draining, connect elsewhere');
    const verified = await this.admit(token);
    const others = sessions.of(verified.userId).filter((session) => session.deviceId !== verified.deviceId);
    if (this.#maxConnectionsPerUser > 0 && others.length >= this.#maxConnectionsPerUser) {
      throw new MeshError('resource_exhausted', `at most ${this.#maxConnectionsPerUser} connections per user`);
    }
    if (sessions.draining) throw new MeshError('unavailable', 'draining, connect elsewhere');
    return verified;
  }

  close(): void {
    this.#verifier.close();
    this.#directory.close();
    this.#chat.close();
  }
}
