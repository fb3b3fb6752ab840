import { MeshError } from './errors.js';

/** What operators are told when Redis refuses this client, by what its answer begins with or contains. */
const REFUSALS: readonly [RegExp, string][] = [
  [/WRONGPASS|invalid password/, 'Redis refuses the user or password of REDIS_URL'],
  [/NOAUTH|Authentication required/, 'Redis wants a password: set REDIS_URL=redis://user:password@host:6379'],
  [/NOPERM/, 'the Redis user of REDIS_URL may not run a command that the mesh needs; allow it with ACL SETUSER'],
  [/^DENIED|Ready check failed: DENIED/, 'Redis is in protected mode: give it a password, or bind it to loopback only'],
  [/cluster support disabled/, 'REDIS_CLUSTER=true, but REDIS_URL leads to a Redis that is not a cluster'],
  [/DB index is out of range/, 'Redis does not have the database that REDIS_URL names'],
];

/** What passes by itself: a failover, a start, a full memory. */
const PASSING =
  /^(Ready check failed: )?(LOADING|MASTERDOWN|CLUSTERDOWN|READONLY|TRYAGAIN|MOVED|ASK|BUSY|NOREPLICAS|MISCONF|OOM|UNBLOCKED)\b/;

/** What the driver has thrown, as a MeshError; without the driver's error as its cause, which carries what was sent. */
export function redisError(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  const text = textOf(error);
  const refusal = REFUSALS.find(([pattern]) => pattern.test(text));
  if (refusal) return new MeshError('failed_precondition', refusal[1]);
  if ((error as Error | undefined)?.name === 'ReplyError' && !PASSING.test(text)) {
    return new MeshError('internal', 'internal error', { cause: new Error(`Redis: ${text}`) });
  }
  return new MeshError('unavailable', text);
}

/** The message of an error, and of the one below it that says why every node of a cluster has failed. */
function textOf(error: unknown): string {
  const { message = String(error), lastNodeError } = (error ?? {}) as Partial<Error> & { lastNodeError?: Error };
  const told = lastNodeError ? `${message} (${lastNodeError.message})` : message;
  // What the driver is about to do is not a reason.
  return told.replace(/ Retrying from scratch after \d+ms\./, '');
}

/** The last one is the driver's own: slots changed hands after commands were put together, and before they were sent. */
export function isRedirection(error: unknown): boolean {
  return /^(MOVED|ASK|TRYAGAIN|All keys in the pipeline)\b/.test(textOf(error));
}

export function startsWith(error: unknown, code: string): boolean {
  return textOf(error).startsWith(code);
}
