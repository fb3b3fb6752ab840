import { isNotTls, isUntrusted } from './ca-file.js';
import { MeshError } from './errors.js';

/** What says that somebody has to do something before it can work. */
const PRECONDITIONS = [/TopicNotFound/i, /InvalidTopicName/i, /InvalidUrl/i, /NotAllowed/i];
const UNAUTHORIZED = 401;
const FORBIDDEN = 403;
const MAX_REASON_CHARACTERS = 200;
/** Node's codes for an answer that is not HTTP. */
const NOT_HTTP = /^HPE_/;

/** The client's errors in the mesh's words; they are told apart by their text alone. */
export function clientError(error: unknown): MeshError {
  const text = error instanceof Error ? error.message : String(error);
  const failed = (message: string) => new MeshError('failed_precondition', message, { cause: error });
  if (/AlreadyClosed/.test(text)) return new MeshError('cancelled', 'the Pulsar client is closed', { cause: error });
  if (/Authenti/i.test(text))
    return failed(`Pulsar refuses the token: set PULSAR_TOKEN to one that it accepts (${text})`);
  if (/Authoriz/i.test(text)) return failed(`Pulsar does not permit this to the role of PULSAR_TOKEN: ${text}`);
  if (PRECONDITIONS.some((pattern) => pattern.test(text))) return failed(`Pulsar refuses: ${text}`);
  return new MeshError('unavailable', `Pulsar: ${text}`, { cause: error });
}

/** Why the admin interface has not answered a request. */
export function noAnswer(cause: Error & { readonly code?: string }): MeshError {
  const { code = '', message } = cause;
  const failed = (text: string) => new MeshError('failed_precondition', `Pulsar's admin interface ${text}`, { cause });
  if (isUntrusted(code)) return failed(`shows a certificate that PULSAR_TLS_CA does not vouch for (${code})`);
  if (NOT_HTTP.test(code)) return failed(`does not speak plain HTTP: set PULSAR_ADMIN_URL to its https:// URL`);
  if (isNotTls(message)) return failed(`does not speak TLS: set PULSAR_ADMIN_URL to its http:// URL`);
  return new MeshError('unavailable', `Pulsar's admin interface does not answer: ${message}`, { cause });
}

/** What an answer of the admin interface means that is not the one that was asked for. */
export function refusedBy(
  { status, text }: { readonly status: number; readonly text: string },
  request: string,
  hasToken: boolean,
): MeshError {
  const reason = reasonOf(text);
  const failed = (message: string) => new MeshError('failed_precondition', message);
  // Both come with the same status; only a role that is known is told a reason.
  if (status === UNAUTHORIZED && reason === undefined)
    return failed(
      hasToken
        ? 'Pulsar refuses the token: set PULSAR_TOKEN to one that it accepts'
        : 'Pulsar asks for a token: set PULSAR_TOKEN',
    );
  if (status === UNAUTHORIZED || status === FORBIDDEN)
    return failed(`Pulsar does not permit ${request} to the role of PULSAR_TOKEN: ${reason ?? status}`);
  return new MeshError(
    status >= 500 ? 'unavailable' : 'failed_precondition',
    `Pulsar's admin interface refuses ${request} with ${status}${reason === undefined ? '' : `: ${reason}`}`,
  );
}

/** In Pulsar's own answers; what else is served there is a page of HTML. */
function reasonOf(text: string): string | undefined {
  try {
    const { reason } = JSON.parse(text) as { reason?: unknown };
    return typeof reason === 'string' ? reason.trim().slice(0, MAX_REASON_CHARACTERS) : undefined;
  } catch {
    return undefined;
  }
}
