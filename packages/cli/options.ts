import { addressToCall } from '@chatmesh/mesh';
import { InvalidArgumentError, Option } from 'commander';

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const LOOPBACK = '127.0.0.1';
const secondsPer: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

export function parseUuid(text: string): string {
  if (!uuid.test(text)) throw new InvalidArgumentError('It must be a lower-case UUID.');
  return text;
}

/** "30d", "12h", "45m" or "60s" in seconds. */
export function parseTtl(text: string): number {
  const [, count, unit = ''] = /^([1-9]\d{0,8})([smhd])$/.exec(text) ?? [];
  const seconds = Number(count) * (secondsPer[unit] ?? Number.NaN);
  if (!(seconds <= 366 * 86_400)) throw new InvalidArgumentError('It must be like 30d, 12h, 45m or 60s, at most 366d.');
  return seconds;
}

export function parseCount(text: string): number {
  const count = Number(text);
  if (!/^\d+$/.test(text) || count < 1 || count > 1_000_000) {
    throw new InvalidArgumentError('It must be a number from 1 to 1000000.');
  }
  return count;
}

export function parseRate(text: string): number {
  const rate = Number(text);
  if (text.trim() === '' || !(rate > 0 && rate <= 1_000_000)) throw new InvalidArgumentError('It must be over 0.');
  return rate;
}

export function parseContactNumber(text: string): string {
  if (!/^\+[1-9][0-9]{6,14}$/.test(text)) throw new InvalidArgumentError('It must be like +15550100.');
  return text;
}

export function parseUrl(text: string): string {
  if (!/^(ws|wss|http|https):$/.test(protocolOf(text))) {
    throw new InvalidArgumentError('It must be like ws://localhost:8080.');
  }
  return text;
}

function protocolOf(text: string): string {
  try {
    return new URL(text).protocol;
  } catch {
    return '';
  }
}

/** The edge's page or API: the WebSocket's URL as `http:`, with another path. */
export function httpUrl(url: string, path: string): string {
  const http = new URL(path, url);
  http.protocol = http.protocol.replace('ws', 'http');
  return http.href;
}

type Env = Readonly<Record<string, string | undefined>>;

/** Where a service of this machine is that listens on `host`. */
function localAddress(host: string, port: string): string {
  return addressToCall(host.replace(/^\[|\]$/g, ''), Number(port));
}

export function urlOption(env: Env): Option {
  return new Option('--url <url>', 'the edge')
    .argParser(parseUrl)
    .default(env.CHATMESH_URL ?? `ws://${localAddress(env.EDGE_HOST || 'localhost', env.EDGE_PORT ?? '8080')}`);
}

/** A token on the command line can be seen by everybody on the machine, so there is a variable, too. */
export function tokenOption(env: Env): Option {
  const option = new Option('--token <jwt>', 'who you are; or the variable CHATMESH_TOKEN');
  const token = env.CHATMESH_TOKEN;
  return token === undefined ? option : option.default(token, 'CHATMESH_TOKEN');
}

export function userAddressOption(env: Env): Option {
  return new Option('--user-address <host:port>', 'the user service').default(
    env.USER_ADDRESS ?? localAddress(env.MESH_HOST || LOOPBACK, env.USER_PORT ?? '7002'),
  );
}

/** All routers: each knows only what it owns. */
export function routersOption(env: Env): Option {
  return new Option('--chat-addresses <list>', 'all routers, host:port or dns:///name:port, separated by commas')
    .argParser(parseAddresses)
    .default(
      parseAddresses(env.CHAT_ADDRESSES ?? localAddress(env.MESH_HOST || LOOPBACK, env.CHAT_PORT ?? '7001')),
      'CHAT_ADDRESSES, or here',
    );
}

export function parseAddresses(text: string): string[] {
  const addresses = text.split(',').map((address) => address.trim());
  if (!addresses.every((address) => /^(dns:\/\/\/)?[\w.:[\]-]+:\d{1,5}$/.test(address)))
    throw new InvalidArgumentError('It must be like host-1:7001,host-2:7001.');
  return addresses;
}

export function jsonOption(): Option {
  return new Option('--json', 'one line of JSON for each thing printed').default(false);
}
