import { Code, ConnectError } from '@connectrpc/connect';

/**
 * `fetch`, but only the mesh's own answers come through: messages in Connect's encodings, and errors in its JSON form.
 * Anything else, such as a proxy's 403 or a login page, says nothing about this user or message and is tried again.
 */
export const fetchOwn: typeof fetch = async (input, init) => {
  const response = await fetch(input, init);
  const type = response.headers.get('content-type') ?? '';
  if (response.status === 200 && /^application\/(connect\+)?proto\b/.test(type)) return response;
  if (type.startsWith('application/json') && (await isConnectError(response.clone()))) return response;
  throw new ConnectError(`something on the way answered ${response.status}`, Code.Unavailable);
};

async function isConnectError(response: Response): Promise<boolean> {
  const body: unknown = await response.json().catch(() => undefined);
  const code = (body as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' && codes.has(code);
}

/** Connect's names: InvalidArgument is `invalid_argument` on the wire. */
const codes = new Set(
  Object.values(Code)
    .filter((name) => typeof name === 'string')
    .map((name) => name.replace(/(?<!^)[A-Z]/g, '_$&').toLowerCase()),
);
