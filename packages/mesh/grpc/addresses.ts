import { lookup } from 'node:dns/promises';

const DNS_SCHEME = 'dns:///';
/** What to listen on for all addresses of a machine, and who then answers there. */
const LOOPBACK: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' };

/** host:port; the host of an IPv6 address stands in brackets. */
export function hostAndPort(host: string, port: number): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** By which address a server is called that listens on `host` of the same machine. */
export function addressToCall(host: string, port: number): string {
  return hostAndPort(LOOPBACK[host] ?? host, port);
}

/** Whether an address stands for all addresses of a name. */
export function isName(address: string): boolean {
  return address.startsWith(DNS_SCHEME);
}

/**
 * The addresses that `dns:///name:port` stands for at the moment, each as host:port.
 *
 * @throws the error of the look-up.
 */
export async function addressesOf(name: string): Promise<string[]> {
  const target = name.slice(DNS_SCHEME.length);
  const [host, port] = [target.slice(0, target.lastIndexOf(':')), target.slice(target.lastIndexOf(':') + 1)];
  const found = await lookup(host.replace(/^\[|\]$/g, ''), { all: true });
  return found.map(({ address }) => hostAndPort(address, Number(port)));
}
