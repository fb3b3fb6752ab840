import { lookup } from 'node:dns/promises';

const DNS_SCHEME = 'dns:///';

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
  const found = await lookup(host, { all: true });
  return found.map(({ address, family }) => (family === 6 ? `[${address}]:${port}` : `${address}:${port}`));
}
