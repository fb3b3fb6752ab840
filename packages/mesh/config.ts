import { isIPv6 } from 'node:net';
import { isServiceLink, suggestion, unreadFamilyNames } from './config-names.js';

/** What is wrong with the configuration, all of it, one line each. */
export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.length === 1 ? problems[0] : ['the configuration has problems:', ...problems].join('\n  '));
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/** What a URL must be, for the operator who has set another one. */
export interface UrlRule {
  readonly expected: string;
  readonly example: string;
  accepts(url: URL): boolean;
}

const ANY_URL: UrlRule = { expected: 'an absolute URL', example: 'https://host.example/path', accepts: () => true };

/**
 * Reads the environment's variables. A bad value is remembered and the default returned, so that {@link finish} can name
 * everything at once. A variable that is set to nothing counts as not set.
 */
export class EnvReader {
  readonly #env: NodeJS.ProcessEnv;
  readonly #known = new Set<string>();
  /** By variable: one that several services read is reported once. */
  readonly #problems = new Map<string, string>();

  constructor(env: NodeJS.ProcessEnv) {
    this.#env = env;
  }

  /** A port to listen on or to call; 0 takes a free one. */
  port(name: string, fallback: number): number {
    return this.int(name, fallback, { min: 0, max: 65_535 });
  }

  int(name: string, fallback: number, { min, max }: { min: number; max: number }): number {
    const value = this.#read(name);
    if (value === undefined) return fallback;
    const number = /^[+-]?\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (number >= min && number <= max) return number;
    this.#bad(name, `a whole number from ${min} to ${max}`, String(fallback));
    return fallback;
  }

  string(name: string, fallback: string): string {
    return this.#read(name) ?? fallback;
  }

  optional(name: string): string | undefined {
    return this.#read(name);
  }

  /** An absolute URL, as it was written; of the kind that `rule` accepts, if one is given. */
  url(name: string, rule: UrlRule = ANY_URL): string | undefined {
    const value = this.#read(name);
    if (value === undefined || (URL.canParse(value) && rule.accepts(new URL(value)))) return value;
    this.#bad(name, rule.expected, rule.example);
    return undefined;
  }

  /** Reports what is wrong between variables, as a sentence that begins with one's name. */
  reject(name: string, problem: string): void {
    if (!this.#problems.has(name)) this.#problems.set(name, problem);
  }

  /** A value of a form of its own: `parse` returns undefined for one that has another. */
  parsed<T>(
    name: string,
    parse: (value: string) => T | undefined,
    { expected, example }: { expected: string; example: string },
  ): T | undefined {
    const value = this.#read(name);
    const parsed = value === undefined ? undefined : parse(value);
    if (value !== undefined && parsed === undefined) this.#bad(name, expected, example);
    return parsed;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.#read(name)?.toLowerCase();
    if (value === undefined) return fallback;
    if (['true', '1', 'yes', 'on'].includes(value)) return true;
    if (['false', '0', 'no', 'off'].includes(value)) return false;
    this.#bad(name, 'true or false', String(fallback));
    return fallback;
  }

  /** A host name or an IP address, to listen on; the brackets that an IPv6 address has elsewhere are left away. */
  host(name: string, fallback: string): string {
    const host = this.parsed(name, hostOf, {
      expected: 'a host name or an IP address, without a port',
      example: fallback,
    });
    return host ?? fallback;
  }

  /** One address of those that {@link addresses} takes. */
  address(name: string, fallback: string): string {
    const address = this.parsed(name, (value) => (isAddress(value) ? value : undefined), {
      expected: 'host:port',
      example: fallback,
    });
    return address ?? fallback;
  }

  /** A list of host:port, or dns:///name:port for all addresses of a name, separated by commas. */
  addresses(name: string, fallback: string[]): string[] {
    const value = this.#read(name);
    if (value === undefined) return fallback;
    const addresses = value.split(',').map((address) => address.trim());
    if (addresses.every(isAddress)) return addresses;
    this.#bad(name, 'a list of host:port', fallback.length > 0 ? fallback.join(',') : 'host-1:7001,host-2:7001');
    return fallback;
  }

  /**
   * Call when every variable has been read: it also finds those that look like ours and that nobody reads.
   *
   * @throws ConfigError naming every problem.
   */
  finish(): void {
    const unread = unreadFamilyNames(this.#env, this.#known).map((name) => {
      const nearest = suggestion(name, this.#known);
      return `${name} is not a variable of the mesh${nearest ? `; did you mean ${nearest}?` : ': remove it'}`;
    });
    const problems = [...this.#problems.values(), ...unread];
    if (problems.length > 0) throw new ConfigError(problems);
  }

  #read(name: string): string | undefined {
    this.#known.add(name);
    const value = this.#env[name];
    // Kubernetes sets EDGE_PORT=tcp://10.0.0.1:8080 for a Service that is called "edge"; nobody meant that for us.
    return value === undefined || value === '' || isServiceLink(name, value) ? undefined : value;
  }

  #bad(name: string, expected: string, example: string): void {
    this.#problems.set(
      name,
      `${name} must be ${expected}, not ${shown(name, this.#env[name] ?? '')}; for example ${name}=${example}`,
    );
  }
}

/** The value as it may be printed: neither secrets nor the credentials inside a URL. */
function shown(name: string, value: string): string {
  if (/SECRET|_KEY|PASSWORD|TOKEN/.test(name)) return 'what it is set to';
  return JSON.stringify(value.replace(/^.*@/s, '***@'));
}

function hostOf(text: string): string | undefined {
  const bare = text.replace(/^\[(.*)\]$/, '$1');
  return isIPv6(bare) || /^[\w.-]+$/.test(text) ? bare : undefined;
}

function isAddress(text: string): boolean {
  const [, port] = /^(?:dns:\/\/\/)?(?:[\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})$/.exec(text) ?? [];
  return port !== undefined && Number(port) >= 1 && Number(port) <= 65_535;
}
