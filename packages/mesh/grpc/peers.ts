import type { PeerCertificate } from 'node:tls';
import type { DescService } from '@bufbuild/protobuf';
import { MeshError } from '../errors.js';

/** The mesh's own tools: what operators and `npx chatmesh` call themselves. */
const OPERATOR = 'admin';
/** Another backend, which sends messages. */
const BACKEND = 'backend';

/** Who may call what is not listed below, by the service that serves it. */
const CALLERS: Readonly<Record<string, readonly string[]>> = {
  chat: ['edge'],
  user: ['edge', 'chat'],
  presence: ['edge', 'chat'],
};

/** Who may call these. */
const CALLERS_OF: Readonly<Record<string, readonly string[]>> = {
  'chat.v1.AdminService': [OPERATOR],
  'user.v1.AdminService': [OPERATOR],
  'chat.v1.RouterService': ['edge'],
  'chat.v1.InternalChatService': ['edge', BACKEND, OPERATOR],
  'user.v1.DirectoryService': ['edge', 'chat', OPERATOR],
};

/** The mesh's service that serves a contract, which is also the name in its certificate: `chat` for `chat.v1.RouterService`. */
export function servedBy({ typeName }: DescService): string {
  return typeName.slice(0, typeName.indexOf('.'));
}

/**
 * The names that a certificate gives its holder: of each DNS name the first label (`edge` of `edge.chatmesh.svc`), of each URI the
 * last segment of its path (`edge` of `spiffe://chatmesh/edge`).
 */
export function namesOf(certificate: Pick<PeerCertificate, 'subjectaltname'> | undefined): string[] {
  const names = certificate?.subjectaltname ?? '';
  // Node quotes a name that holds what separates names; such a one is nobody's.
  if (names.includes('"')) return [];
  return names.split(', ').flatMap((entry) => {
    if (entry.startsWith('DNS:')) return entry.slice('DNS:'.length).split('.').slice(0, 1);
    if (entry.startsWith('URI:')) return entry.split('/').slice(-1);
    return [];
  });
}

/** @throws MeshError `permission_denied` unless one of a caller's names is among those that may call the service. */
export function admitCaller(service: DescService, names: readonly string[]): void {
  const allowed = CALLERS_OF[service.typeName] ?? CALLERS[servedBy(service)] ?? [];
  if (names.some((name) => allowed.includes(name))) return;
  const who = names.length > 0 ? names.join(', ') : 'a certificate without a name';
  throw new MeshError('permission_denied', `${who} may not call ${service.typeName}`);
}
