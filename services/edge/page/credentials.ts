const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const TOKEN_KEY = 'chatmesh.token';
const PEER_KEY = 'chatmesh.to';

/** Who talks to whom. */
export interface Credentials {
  readonly token: string;
  /** The user of the token. */
  readonly me: string;
  /** The user at the other end. */
  readonly peer: string;
}

/**
 * What this tab knows, be it incomplete: from the address's fragment, else from before a reload. The fragment is taken
 * out of the address bar, so that no token stays in the history or is shared with a copied address.
 */
export function recall(): { token: string; peer: string } {
  const link = parseLink(location.hash);
  if (link) {
    history.replaceState(null, '', location.pathname + location.search);
    sessionStorage.setItem(TOKEN_KEY, link.token);
    if (link.peer !== '') sessionStorage.setItem(PEER_KEY, link.peer);
  }
  return { token: sessionStorage.getItem(TOKEN_KEY) ?? '', peer: sessionStorage.getItem(PEER_KEY) ?? '' };
}

/** Keeps the credentials for reloads of this tab; they go with it. */
export function remember({ token, peer }: Credentials): void {
  sessionStorage.setItem(TOKEN_KEY, token);
  sessionStorage.setItem(PEER_KEY, peer);
}

/** Token and peer of a link `…#token=TOKEN&to=USER_ID`; undefined when the text is none. */
export function parseLink(text: string): { token: string; peer: string } | undefined {
  const parameters = new URLSearchParams(text.slice(text.indexOf('#') + 1));
  const token = parameters.get('token');
  return token ? { token, peer: (parameters.get('to') ?? '').toLowerCase() } : undefined;
}

/** The user that a token is for; undefined when it is no token. Whether it is genuine is the server's to say. */
export function userOf(token: string): string | undefined {
  try {
    const payload = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const { sub } = JSON.parse(atob(payload)) as { sub?: unknown };
    return typeof sub === 'string' && isUserId(sub) ? sub : undefined;
  } catch {
    return undefined;
  }
}

export function isUserId(text: string): boolean {
  return UUID.test(text);
}
