import { MeshError } from '@chatmesh/mesh';
import { ChatError } from '@chatmesh/sdk';

/** What the process exits with. */
export const exitCodes = { ok: 0, refused: 1, usage: 2, unreachable: 3 } as const;

/** Ends a command with a sentence for the user. */
export class CommandError extends Error {
  constructor(
    readonly exitCode: number,
    message: string,
  ) {
    super(message);
  }
}

/** The server is not there. @param how to name another address */
export function unreachable(address: string, how: string): CommandError {
  return new CommandError(
    exitCodes.unreachable,
    `Nothing answers at ${address}: start the mesh with \`npm start\`, or say where it is with ${how}.`,
  );
}

/** A failed call to the edge, as a sentence. */
export function edgeFailure(error: unknown, url: string): unknown {
  if (!(error instanceof ChatError)) return error;
  switch (error.code) {
    case 'unavailable':
      return unreachable(url, '--url');
    case 'unauthenticated':
      return new CommandError(exitCodes.refused, `The server does not accept the token: ${error.message}.`);
    case 'invalid_argument':
      return new CommandError(exitCodes.usage, `That cannot be sent: ${error.message}.`);
    default:
      return new CommandError(exitCodes.refused, `The server refused (${error.code}): ${error.message}.`);
  }
}

/** A failed call to a service inside the mesh, as a sentence. */
export function meshFailure(error: unknown, address: string, option: string): unknown {
  if (!(error instanceof MeshError)) return error;
  if (error.kind === 'unavailable' || error.kind === 'deadline_exceeded') return unreachable(address, option);
  const exitCode = error.kind === 'invalid_argument' ? exitCodes.usage : exitCodes.refused;
  return new CommandError(exitCode, `The service refused (${error.kind}): ${error.message}.`);
}
