import { isNotTls, isUntrusted } from './ca-file.js';
import { MeshError } from './errors.js';

// The driver's errors are told by their names, so that only cassandra.ts imports it.

const MIGRATE = 'run `npx chatmesh migrate`';

const BAD_CREDENTIALS = 0x0100;
const UNAUTHORIZED = 0x2100;
/** Unavailable, overloaded, bootstrapping, truncating; timeouts and failures of replicas, of writes and of reads. */
const OUTAGES = new Set<unknown>([0x1000, 0x1001, 0x1002, 0x1003, 0x1100, 0x1200, 0x1300, 0x1500]);

interface DriverError extends Error {
  readonly code?: number | string;
  readonly innerErrors?: Readonly<Record<string, DriverError | null>>;
}

/** An outage. Its message may reach strangers: where and why is in its cause, for the log. */
export function unavailable(cause: Error): MeshError {
  return new MeshError('unavailable', 'the message store does not answer', { cause });
}

/** An error of the driver in the mesh's words. */
export function meshErrorOf(error: unknown, keyspace: string): MeshError {
  if (error instanceof MeshError) return error;
  const cause = error as DriverError;
  const { name, message, code } = cause;
  const failed = (text: string) => new MeshError('failed_precondition', text, { cause });
  switch (name) {
    case 'ResponseError':
      if (OUTAGES.has(code)) return unavailable(cause);
      if (/keyspace .* does not exist/i.test(message)) return failed(`there is no keyspace ${keyspace}: ${MIGRATE}`);
      if (/unconfigured table|table .* does not exist/i.test(message))
        return failed(`a table of keyspace ${keyspace} is missing: ${MIGRATE}`);
      if (code === UNAUTHORIZED) return failed(`Cassandra does not permit this to SCYLLA_USERNAME: ${message}`);
      return new MeshError('internal', 'Cassandra refused a request', { cause });
    case 'NoHostAvailableError': {
      const refused = innerErrors(cause).find((inner) => inner.name === 'ResponseError' && !OUTAGES.has(inner.code));
      if (refused) return meshErrorOf(refused, keyspace);
      return unavailable(innerErrors(cause).at(-1) ?? cause);
    }
    case 'TypeError':
    case 'RangeError':
    case 'ArgumentError':
      return new MeshError('internal', 'a request to Cassandra is malformed', { cause });
    default:
      return unavailable(cause);
  }
}

/** Why there is no connection, in a sentence for the operator. */
export function refusal(
  error: unknown,
  options: {
    contactPoints: readonly string[];
    localDatacenter: string;
    keyspace: string;
    tlsCaFile?: string | undefined;
  },
): MeshError {
  if (error instanceof MeshError) return error;
  const cause = error as DriverError;
  const where = `Cassandra at ${options.contactPoints.join(', ')}`;
  const failed = (text: string) => new MeshError('failed_precondition', `${where} ${text}`, { cause });
  for (const { name, message, code } of [cause, ...innerErrors(cause)]) {
    if (name === 'AuthenticationError' || code === BAD_CREDENTIALS)
      return failed('refuses the credentials: set SCYLLA_USERNAME and SCYLLA_PASSWORD');
    if (name === 'ArgumentError' && /data ?center/i.test(message))
      return failed(`has no data center "${options.localDatacenter}": set SCYLLA_LOCAL_DATACENTER to one that it has`);
    if (typeof code === 'string' && isUntrusted(code))
      return failed(`shows a certificate that SCYLLA_TLS_CA does not vouch for (${code})`);
    if (isNotTls(message)) return failed('does not speak TLS: unset SCYLLA_TLS_CA, or turn TLS on there');
    // It may as well be a node that is on its way out, so it is asked again.
    if (code === 'ECONNRESET' && options.tlsCaFile === undefined)
      return unavailable(
        new Error(`${where} closes connections unanswered (${message}): if it takes TLS alone, set SCYLLA_TLS_CA`),
      );
  }
  return meshErrorOf(cause, options.keyspace);
}

function innerErrors(error: DriverError): DriverError[] {
  return Object.values(error.innerErrors ?? {}).filter((inner) => inner !== null);
}
