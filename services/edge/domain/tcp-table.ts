import { hexOf } from './address.js';

/**
 * An established connection whose timer for repeats (1) or for probes of a closed window (4) runs: its local port, the peer's address and port, and
 * how many repeats and probes have had no answer. The fields are proc(5)'s.
 */
const WAITING =
  /^ *\d+: [\dA-F]+:([\dA-F]{4}) ([\dA-F]+):([\dA-F]{4}) 01 [\dA-F]{8}:[\dA-F]{8} 0[14]:[\dA-F]+ ([\dA-F]{8}) +\d+ +(\d+) /;

/** How this machine stores a word, which is how its kernel prints an address. */
const LITTLE_ENDIAN = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

/** The two ends of a connection as one text. */
export function connectionKey(localPort: number, remoteAddress: string, remotePort: number): string {
  return `${localPort} ${hexOf(remoteAddress)} ${remotePort}`;
}

/**
 * The {@link connectionKey} of a line of Linux' `/proc/net/tcp` or `tcp6`, where the kernel has sent the peer something more than once without
 * an answer; undefined for any other line.
 */
export function unansweredKey(line: string): string | undefined {
  const [match, localPort, address, port, repeats, probes] = WAITING.exec(line) ?? [];
  if (match === undefined || (Number.parseInt(repeats as string, 16) === 0 && Number(probes) === 0)) return undefined;
  const remote = addressOf(address as string);
  return connectionKey(Number.parseInt(localPort as string, 16), remote, Number.parseInt(port as string, 16));
}

/** The kernel prints an address as words in the machine's own order. */
function addressOf(hex: string): string {
  const words = hex.match(/.{8}/g) ?? [];
  const bytes = words.map((word) => (LITTLE_ENDIAN ? (word.match(/../g) ?? []).reverse().join('') : word)).join('');
  if (words.length === 1) return (bytes.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)).join('.');
  return (bytes.match(/.{4}/g) ?? []).join(':');
}
