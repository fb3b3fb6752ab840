/** How a connection to PostgreSQL is protected, in libpq's words: https://www.postgresql.org/docs/current/libpq-ssl.html */
export type SslMode = 'disable' | 'require' | 'verify-ca' | 'verify-full';

/** `allow` and `prefer` are left out: they fall back to plain text when somebody in between asks for it. */
const SSL_MODES: readonly string[] = ['disable', 'require', 'verify-ca', 'verify-full'] satisfies SslMode[];
/** The driver would read these from files of its own accord, past DATABASE_TLS_CA. */
const FILE_PARAMETERS = ['sslrootcert', 'sslcert', 'sslkey', 'ssl'];

/** What {@link isPostgresUrl} asks for, to be told to an operator. */
export const POSTGRES_URL = {
  expected: 'a postgres:// URL with a database and, if any, sslmode=disable, require, verify-ca or verify-full',
  example: 'postgres://user:password@db.example:5432/chatmesh?sslmode=verify-full',
};

/** Whether a URL names a PostgreSQL database, with no parameter that this mesh would read otherwise than it is meant. */
export function isPostgresUrl(url: URL): boolean {
  const sslMode = url.searchParams.get('sslmode');
  return (
    (url.protocol === 'postgres:' || url.protocol === 'postgresql:') &&
    url.pathname.length > 1 &&
    (sslMode === null || SSL_MODES.includes(sslMode)) &&
    !FILE_PARAMETERS.some((name) => url.searchParams.has(name))
  );
}

/** A URL that {@link isPostgresUrl} accepts, apart from how its connections are protected. */
export interface PostgresTarget {
  /** For the driver: the URL without `sslmode`. Holds the password. */
  readonly url: string;
  readonly sslMode: SslMode;
  /** host:port, for people. */
  readonly address: string;
  readonly user: string;
  readonly database: string;
}

/**
 * Takes a PostgreSQL URL apart.
 *
 * @param hasCa whether a certificate authority is configured: then TLS is verified where the URL does not say otherwise.
 */
export function postgresTarget(text: string, hasCa: boolean): PostgresTarget {
  const url = new URL(text);
  const sslMode = url.searchParams.get('sslmode') ?? (hasCa ? 'verify-full' : 'disable');
  url.searchParams.delete('sslmode');
  return {
    url: url.href,
    sslMode: sslMode as SslMode,
    address: `${url.hostname}:${url.port || 5432}`,
    user: decodeURIComponent(url.username),
    database: decodeURIComponent(url.pathname.slice(1)),
  };
}
