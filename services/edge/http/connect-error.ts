import { connectCode, RETRY_AFTER_METADATA, toMeshError } from '@chatmesh/mesh';
import { ConnectError } from '@connectrpc/connect';

/** Any thrown value as Connect's error. */
export function connectError(error: unknown): ConnectError {
  const mesh = toMeshError(error);
  const metadata = mesh.retryAfterMs === undefined ? {} : { [RETRY_AFTER_METADATA]: String(mesh.retryAfterMs) };
  return new ConnectError(mesh.message, connectCode(mesh.kind), metadata);
}

/** @throws ConnectError always. */
export function asConnectError(error: unknown): never {
  throw connectError(error);
}
