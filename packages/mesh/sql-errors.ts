import { isUntrusted } from './ca-file.js';
import { MeshError } from './errors.js';
import type { PostgresTarget } from './sql-url.js';

/** PostgreSQL's refusal of a statement, without its parameters and details, which may be secret and would end in a log. */
export class SqlError extends Error {
  override readonly name = 'SqlError';
  /** SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html */
  readonly code: string;

  constructor(message: string, code: string) {
    super(message);
    this.code = code;
  }
}

/**
 * SQLSTATEs that pass by themselves: lost connections (08), a read-only or recovering server (25006, 25P03, 25P04),
 * serialization and deadlock (40), no room, memory or connections (53), locks not had in time (55P03), cancelled and shutting
 * down (57), and a server in trouble of its own (58, XX).
 */
const PASSING = /^(08|25006|25P0[34]|40|53|55P03|57|58|XX)/;
/** The driver's own words for a connection that is gone, or was not had in time. */
const LOST =
  /^(Connection terminated|timeout e|Query read timeout|Client (has|was)|Cannot use a pool|There was an error establishing)/;

/** A failure of the driver as MeshError or SqlError; what is neither stays what it is. */
export function sqlFailure(error: unknown, target: PostgresTarget): unknown {
  if (error instanceof MeshError || error instanceof SqlError) return error;
  const { code, message = '', syscall } = error as { code?: string; message?: string; syscall?: string };
  const refusal = refusalOf(code, message, target);
  if (refusal) return new MeshError('failed_precondition', refusal);
  const sqlState = code !== undefined && /^[0-9A-Z]{5}$/.test(code) && 'severity' in (error as object);
  if (sqlState) return PASSING.test(code) ? unavailable(target, message) : new SqlError(message, code);
  const gone = syscall !== undefined || /^(E[A-Z]{4,}|ERR_(SSL|STREAM|SOCKET))/.test(code ?? '') || LOST.test(message);
  return gone ? unavailable(target, message || (code ?? 'no reason given')) : error;
}

/** An outage. Its message may reach strangers, so that where and why is in its cause, for the log. */
export function unavailable({ address }: PostgresTarget, reason: string): MeshError {
  const cause = new Error(`PostgreSQL at ${address} is not available: ${reason}`);
  return new MeshError('unavailable', 'the database is not available', { cause });
}

/** What an operator has to mend, in a sentence; undefined for everything else. */
function refusalOf(
  code: string | undefined,
  message: string,
  { address, user, database }: PostgresTarget,
): string | undefined {
  const who = `PostgreSQL at ${address}`;
  if (code === '28P01') return `${who} refuses the password of user "${user}": correct it in the database's URL`;
  if (code === '28000') return `${who} does not let user "${user}" in (${message}): correct the database's URL`;
  if (message.startsWith('SASL') && message.includes('password')) {
    return `${who} asks for the password of user "${user}", and the database's URL has none`;
  }
  if (code === '3D000') {
    return `${who} has no database "${database}": create it (\`createdb ${database}\`), then run \`npx chatmesh migrate\``;
  }
  if (message === 'The server does not support SSL connections') {
    return `${who} does not offer TLS: turn it on there, or write sslmode=disable into the database's URL`;
  }
  if (code !== undefined && isUntrusted(code)) {
    return `the certificate of ${who} is not trusted (${message}): set DATABASE_TLS_CA to the authority that signed it`;
  }
  return undefined;
}
